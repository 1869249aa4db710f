"""Operations of a step: against XLA's own count where it counts all, and Muon's against what its loops do."""

import jax
import jax.numpy as jnp
import pytest

from wallwm_jax.core.axes import declare
from wallwm_jax.core.flops import jaxpr_flops, matmul_flops
from wallwm_jax.core.mesh import MESH_AXES, make_mesh
from wallwm_jax.optim.muon import MuonSettings, matrix_views, ownership_of, scale_by_muon
from wallwm_jax.plan.analytic import holdings
from wallwm_jax.plan.operations import count_activations, count_operations, owned_flops
from wallwm_jax.plan.step import abstract_step
from wallwm_jax.train.families import stage_of

STAGE = stage_of("video")


def test_products_are_what_xla_counts_without_loops():
    """The gradient of attention and a network of 256 channels: XLA adds what is no product, here under 3 %."""
    key = jax.random.key(0)
    x, squares, wide = (jax.random.normal(key, shape) for shape in ((2, 128, 256), (3, 256, 256), (256, 1024)))

    def layer(x, squares, wide):
        query, key, value = (x @ square for square in squares)
        mixed = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", query, key)) @ value
        return jnp.sum((jax.nn.relu(mixed @ wide) @ wide.T) ** 2)

    function = jax.grad(layer, (0, 1, 2))
    counted = jax.jit(function).lower(x, squares, wide).compile().cost_analysis()["flops"]
    assert 1.0 <= counted / matmul_flops(function, x, squares, wide) < 1.03


def test_a_mapped_body_counts_on_every_device():
    """Eight devices that each multiply their own block."""
    mesh = jax.sharding.AbstractMesh((2, 4), ("a", "b"))
    spec = jax.sharding.PartitionSpec(("a", "b"))
    mapped = jax.shard_map(lambda x: x @ x.T @ x, mesh=mesh, in_specs=spec, out_specs=spec)
    with jax.sharding.use_abstract_mesh(mesh):
        jaxpr = jax.make_jaxpr(mapped)(jnp.ones((16, 5)))
    assert jaxpr_flops(jaxpr.jaxpr) == 8 * 2 * (2 * 2 * 2 * 5)


@pytest.mark.parametrize("iteration", ["direct", "cheapest"])
def test_owned_operations_are_those_of_the_loops(iteration):
    """What `ownership_of` says that all devices do together is what one device does that owns all."""
    declarations = {"a": declare("embed -> mlp"), "b": declare("layers | mlp -> embed"), "c": declare("embed -> embed")}
    leaves = {"a": jnp.ones((8, 32)), "b": jnp.ones((3, 32, 8)), "c": jnp.ones((8, 8))}
    settings = MuonSettings(iteration=iteration)
    muon = scale_by_muon(declarations, settings)
    done = matmul_flops(lambda g: muon.update(g, muon.init(g))[0], leaves)
    mesh = jax.sharding.AbstractMesh((2, 2, 2, 1), MESH_AXES)
    views = matrix_views(leaves, declarations, settings, mesh)
    assert ownership_of(views, dict(mesh.shape), settings)[0].flops.sum() == done


def test_a_step_is_model_recomputation_and_optimizer(micro_config):
    """Remat adds the forward pass of the blocks, about a third of them; on one device the optimizer's share is all that
    a whole step does beside its gradients. What loops stack for the backward pass shrinks with remat."""
    step, plain = (
        abstract_step(STAGE, micro_config, 2, make_mesh("laptop"), remat=remat) for remat in ("full", "none")
    )
    found = count_operations(step, plain)
    whole = jaxpr_flops(jax.make_jaxpr(step.programs.step)(step.state, step.batch).jaxpr)
    assert found.model + found.recomputed + found.optimizer == whole == found.device
    assert 0.1 < found.recomputed / found.model < 0.5
    assert found.optimizer == owned_flops(step).sum() > 0
    assert 0 < count_activations(step).kept < count_activations(plain).kept


def test_parts_and_offloading_change_what_a_device_holds(micro_config):
    """In two parts a step keeps half of what rows make it keep, and does the same operations. An offloaded state is
    counted where it lies, to the byte."""
    mesh = make_mesh("laptop")
    plain = abstract_step(STAGE, micro_config, 2, mesh)
    micro_config.stages.video.update({"accumulate": 2, "offload_optimizer": True})
    other = abstract_step(STAGE, micro_config, 2, mesh)
    assert count_operations(other, plain).recomputed == 0
    kept, half = (count_activations(step) for step in (plain, other))
    assert kept.kept / 2 <= half.kept < 0.55 * kept.kept
    before, after = holdings(plain, kept), holdings(other, half)
    assert before.host == after.optimizer == 0 and after.host == before.optimizer > 0
    assert after.parameters == before.parameters and after.least < before.least


def test_frozen_towers_have_no_moments(micro_config):
    """A text encoder that the config freezes, as the Wan experiment does, is neither averaged nor orthogonalised."""
    mesh, other = make_mesh("laptop"), micro_config.copy_and_resolve_references()
    other.stages.video.freeze = ()
    trained, frozen = (abstract_step(STAGE, config, 2, mesh) for config in (other, micro_config))
    assert set(trained.state.average) - set(frozen.state.average) == {"text_encoder"}
    assert trained.state.parameters.keys() == frozen.state.parameters.keys()
    assert owned_flops(frozen).sum() < owned_flops(trained).sum()
