"""One step: frozen means frozen, a bad gradient changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.mesh import batch_sharding
from wallwm_jax.core.trees import digest, named_leaves
from wallwm_jax.optim import freeze
from wallwm_jax.train.fit import make_programs
from wallwm_jax.train.prefetch import to_mesh
from wallwm_jax.train.stages import STAGES
from wallwm_jax.train.state import averaged_parameters


@pytest.fixture(scope="module", params=[stage.name for stage in STAGES])
def trained(request, make_run, initial):
    """(run, state before, state after four steps, metrics of the last, programs) of each stage. Four: the head, the
    cross-view output and then what it reads start from zeros, one behind the other."""
    run = make_run(request.param)
    with jax.set_mesh(run.mesh):
        programs = make_programs(run, initial[0])
        before, after = programs.create(initial[0]), programs.create(initial[0])
        for seed in range(4):
            after, metrics = programs.step(after, _on_mesh(run, seed))
    return run, before, after, metrics, programs


def _on_mesh(run, seed):
    return to_mesh(random_batch(seed), batch_sharding(run.mesh))


def test_frozen_means_frozen(trained):
    """After four steps the frozen towers are bit-identical and every trained parameter has moved; there is no optimizer
    state and no average for what is frozen."""
    run, before, after, _, _ = trained
    moved, kept = freeze.split(after.parameters, run.stage.trains)
    start_moved, start_kept = freeze.split(before.parameters, run.stage.trains)
    assert digest(kept) == digest(start_kept)
    start = named_leaves(start_moved)
    assert [name for name, leaf in named_leaves(moved).items() if np.array_equal(leaf, start[name])] == []
    tracked = [name for name in named_leaves((after.optimizer_state, after.average)) if "/blocks/" in f"/{name}"]
    assert {name.split("blocks/")[1].split("/")[0] for name in tracked} == run.stage.trains & {"video", "action"}


def test_counters_metrics_and_average(trained):
    """Steps and events are counted, the metrics are finite, and the average lies between start and present."""
    run, before, after, metrics, _ = trained
    assert int(after.step) == 4 and int(after.skipped) == 0
    assert int(after.events) == 4 * 3  # two events in the even row, one in the odd one
    assert {"loss", "grad_norm", "learning_rate", "tokens"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values())
    average = named_leaves(averaged_parameters(after, run.stage))
    start, now = named_leaves(before.parameters), named_leaves(after.parameters)
    name = next(name for name in average if not np.array_equal(start[name], now[name]))
    gap = np.abs(np.asarray(average[name] - now[name])).max()
    assert 0 < gap < np.abs(np.asarray(start[name] - now[name])).max()


def test_a_gradient_that_is_not_finite_changes_nothing(trained):
    """With a NaN among the parameters the step leaves parameters, average and moments as they are, and counts it."""
    run, before, _, _, programs = trained
    tower = {"video": "text_encoder", "action": "duration"}[run.stage.name]
    state = jax.tree.map(jnp.copy, before)
    state.parameters[tower] = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), state.parameters[tower])
    digests = {part: digest(getattr(state, part)) for part in ("parameters", "average", "optimizer_state")}
    with jax.set_mesh(run.mesh):
        after, metrics = programs.step(state, _on_mesh(run, 1))
    assert not np.isfinite(metrics["grad_norm"])
    assert (int(after.step), int(after.skipped)) == (1, 1)
    assert {part: digest(getattr(after, part)) for part in digests} == digests
