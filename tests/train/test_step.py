"""One step: frozen means frozen, a bad gradient changes nothing, evaluation is repeatable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.trees import digest, named_leaves
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.train.settings import stage_settings
from wallwm_jax.train.stages import STAGES, stage_of
from wallwm_jax.train.state import averaged_parameters, create_state
from wallwm_jax.train.step import make_evaluation, make_train_step

CONFIG = {"steps": 20, "warmup_steps": 1, "objective": {}}


@pytest.fixture(scope="module", params=[stage.name for stage in STAGES])
def trained(request, model, initial):
    """(stage, state before, state after four steps, metrics of the last, compiled step) of each stage. Four: the head,
    the cross-view output and then what it reads start from zeros, one behind the other."""
    stage, (parameters, declarations) = stage_of(request.param), initial
    settings = stage_settings(stage, CONFIG)
    optimizer = build_optimizer(settings.optimizer, freeze.split(declarations, stage.trains)[0])
    step = jax.jit(make_train_step(model, stage, optimizer, settings, seed=0))
    before = create_state(stage, optimizer, parameters)
    after = before
    for seed in range(4):
        after, metrics = step(after, random_batch(seed))
    return stage, before, after, metrics, step


def test_frozen_means_frozen(trained):
    """After four steps the frozen towers are bit-identical and every trained parameter has moved; there is no optimizer
    state and no average for what is frozen."""
    stage, before, after, _, _ = trained
    moved, kept = freeze.split(after.parameters, stage.trains)
    start_moved, start_kept = freeze.split(before.parameters, stage.trains)
    assert digest(kept) == digest(start_kept)
    start = named_leaves(start_moved)
    assert [name for name, leaf in named_leaves(moved).items() if np.array_equal(leaf, start[name])] == []
    tracked = [name for name in named_leaves((after.optimizer_state, after.average)) if "/blocks/" in f"/{name}"]
    assert tracked
    assert {name.split("blocks/")[1].split("/")[0] for name in tracked} == stage.trains & {"video", "action"}


def test_counters_metrics_and_average(trained):
    """Steps and events are counted, the metrics are finite, and the average lies between start and present."""
    stage, before, after, metrics, _ = trained
    assert int(after.step) == 4 and int(after.skipped) == 0
    assert int(after.events) == 4 * 3  # two events in the even row, one in the odd one
    assert {"loss", "grad_norm", "learning_rate", "tokens"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values())
    average = named_leaves(averaged_parameters(after, stage))
    start, now = named_leaves(before.parameters), named_leaves(after.parameters)
    name = next(name for name in average if not np.array_equal(start[name], now[name]))
    gap = np.abs(np.asarray(average[name] - now[name])).max()
    assert 0 < gap < np.abs(np.asarray(start[name] - now[name])).max()


def test_a_gradient_that_is_not_finite_changes_nothing(trained):
    """With a NaN among the parameters the step leaves parameters, average and moments as they are, and counts it."""
    stage, before, _, _, step = trained
    name = {"video": "text_encoder", "action": "duration"}[stage.name]
    poisoned = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), before.parameters[name])
    state = before._replace(parameters={**before.parameters, name: poisoned})
    after, metrics = step(state, random_batch(1))
    assert not np.isfinite(metrics["grad_norm"])
    assert (int(after.step), int(after.skipped)) == (1, 1)
    for part in ("parameters", "average", "optimizer_state"):
        assert digest(getattr(after, part)) == digest(getattr(state, part))


def test_evaluation_is_a_function_of_parameters_batch_and_key(trained, model):
    """Twice the same key gives the same bits, another key another loss."""
    stage, before, _, _, _ = trained
    evaluation = jax.jit(make_evaluation(model, stage, stage_settings(stage, CONFIG)))
    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    losses = [float(evaluation(before.parameters, random_batch(3), key)["loss"]) for key in keys]
    assert losses[0] == losses[1] != losses[2]
