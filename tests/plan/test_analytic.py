"""What shardings alone say of a step."""

from wallwm_jax.core.mesh import abstract_mesh
from wallwm_jax.plan.analytic import holdings, least_traffic
from wallwm_jax.plan.operations import Activations
from wallwm_jax.plan.step import abstract_step
from wallwm_jax.train.families import stage_of


def test_devices_with_the_same_rows_share_the_state_and_the_activations(micro_config):
    """Four devices hold and send as much along `fsdp` and `sequence` as along `fsdp` alone: parameters are cut by both,
    activations by rows or by tokens. Only the batch, which is small, lies whole along `sequence`."""
    found = {}
    for name in ("host", "long_rows"):
        step = abstract_step(stage_of("video"), micro_config, 2, abstract_mesh(name, 4))
        held = holdings(step, Activations(4000, 400))
        found[name] = held, least_traffic(step, held, (0,) * 4)
    (host, sent), (long_rows, sent_by_long_rows) = found["host"], found["long_rows"]
    assert long_rows.batch == 2 * host.batch
    assert long_rows._replace(batch=0) == host._replace(batch=0)
    assert sent_by_long_rows.sent == sent.sent
