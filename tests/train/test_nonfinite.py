"""Skipped steps: when the host notices them, what is kept of them, and that doing one again shows what was wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.synthetic import random_batch
from tests.train.test_fit import Silent
from tests.train.toy import TOY, toy_data, toy_parameters, toy_run, toy_start
from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.trees import digest
from wallwm_jax.core.types import EventBatch
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.train.checkpoint import read_checkpoint
from wallwm_jax.train.faults import Fault
from wallwm_jax.train.fit import fit
from wallwm_jax.train.nonfinite import LAG, SkipWatch, examine, read_failed_step
from wallwm_jax.train.run import StageData


class Number:
    """A loss that remembers whether it has been looked at, as a device array would have made the host wait."""

    def __init__(self, value):
        self.value, self.seen = value, False

    def copy_to_host_async(self):
        pass

    def __float__(self):
        self.seen = True
        return self.value


def _watched(values, limit):
    """(the place at which the limit is reached or None, the latest place that was looked at before each step)."""
    watch, losses, latest = SkipWatch(limit), [], []
    for place, value in enumerate(values):
        losses.append(Number(value))
        if watch.add({"loss": losses[-1], "grad_norm": Number(1.0), "update_norm": Number(1.0)}):
            return place, latest
        latest.append(max((number for number, loss in enumerate(losses) if loss.seen), default=-1))
    return None, latest


def test_the_host_does_not_wait_while_all_is_well():
    """It looks at a step only when `LAG` others are under way."""
    place, latest = _watched([1.0] * 12, limit=10)
    assert place is None and latest == [step - LAG if step >= LAG else -1 for step in range(12)]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8])
def test_the_limit_is_noticed_at_once(limit):
    """At the very step that is the `limit`-th in a row, whatever came before, and not if one of them was good."""
    bad = float("nan")
    for start in range(7):
        values = [1.0] * start + [bad] * (limit - 1) + [1.0] + [bad] * limit + [1.0] * 9
        assert _watched(values, limit)[0] == start + 2 * limit - 1
    assert _watched(([bad] * (limit - 1) + [1.0]) * 5, limit)[0] is None


def _kept(tmp_path, fault=None, data=None, **settings):
    """(the kept step, the run) of a toy run that ends because of steps that are not finite."""
    run = toy_run(tmp_path, fault, stop_after_skipped=2, **settings)
    with pytest.raises(RunError) as told:
        fit(run, toy_start(), data or toy_data(), Silent())
    return read_failed_step(str(told.value).split("`")[1].split()[-1]), run


def _examined(run, kept):
    """The kept step done again."""
    trained, _ = freeze.split(run.declarations, TOY.trains)
    optimizer = build_optimizer(run.settings.optimizer, trained)
    return examine(run.model, TOY, optimizer, run.settings, run.seed, kept, EventBatch)


def test_an_update_that_is_not_finite_is_found_again(tmp_path):
    """Every gradient is finite; what the optimizer makes of them is not."""
    settings = {"optimizer": "tests.train.test_nonfinite:exploding", "learning_rate": 1.0}
    kept, run = _kept(tmp_path, **settings)
    found = _examined(run, kept)
    assert found.gradients == [] and found.updates == ["linear/bias", "linear/weight"]
    assert np.isfinite(found.numbers["grad_norm"]) and not np.isfinite(found.numbers["update_norm"])
    assert not np.isfinite(kept.numbers["update_norm"])


def exploding(learning_rate):
    """An optimizer whose third update is infinite, by a count in its state."""

    def update(updates, state, parameters=None):
        factor = jnp.where(state >= 2, jnp.inf, -learning_rate(state))
        return jax.tree.map(lambda leaf: factor * jnp.ones_like(leaf), updates), state + 1

    return optax.GradientTransformation(lambda parameters: jnp.zeros([], jnp.int32), update)


def test_a_bad_batch_is_kept_and_named(tmp_path):
    """From step 6 on the actions hold a NaN: what is kept is the state before the last step that was tried, its batch,
    its number and the config; done again, the losses and every gradient that reads the actions are not finite."""

    def batches(first):
        for step in range(first, 100):
            batch = random_batch(100 + step)
            batch.actions[0, 0, 3] = np.nan if step >= 5 else 0.0
            yield batch

    kept, run = _kept(tmp_path, data=StageData(batches, toy_data().heldout), checkpoint_every=5)
    assert kept.step == 6 and kept.records == run.records and kept.fault is None
    assert digest(kept.parameters) == digest(read_checkpoint(tmp_path / "checkpoints", 5).parameters)
    np.testing.assert_array_equal(kept.batch["state"], random_batch(106).state)
    found = _examined(run, kept)
    assert np.isnan(found.numbers["loss"]) and np.isnan(kept.numbers["loss"])
    assert found.batch == ["actions"] and found.parameters == []
    assert found.gradients == ["linear/bias", "linear/weight"]


def test_a_fault_on_purpose_strikes_again(tmp_path):
    """Gradients that were made infinite are so again, and nothing else is."""
    kept, run = _kept(tmp_path, Fault.parse("inf@step=3,count=9"))
    found = _examined(run, kept)
    assert kept.step == 3 and found.gradients == ["linear/bias", "linear/weight"]
    assert found.batch == found.parameters == [] and not np.isfinite(found.numbers["grad_norm"])
    np.testing.assert_allclose(found.numbers["loss"], kept.numbers["loss"], rtol=1e-5)  # another program, fp32


def test_a_loss_alone_that_is_not_finite_is_skipped_too(tmp_path):
    """Even if every gradient is finite: nobody knows what they are gradients of."""

    def loss(*arguments):
        value, metrics = TOY.objective(*arguments)
        return value + jnp.inf, metrics

    run = toy_run(tmp_path, stage=dataclasses.replace(TOY, objective=loss), steps=4)
    state = fit(run, toy_start(), toy_data(), Silent())
    assert int(state.skipped) == 4 and digest(state.parameters) == digest(toy_parameters())


def test_what_is_no_kept_step_is_refused(tmp_path):
    """A folder without a number, one that is not there, and a checkpoint each say so."""
    fit(toy_run(tmp_path, steps=2), toy_start(), toy_data(), Silent())
    for path, match in [("checkpoints", "number"), ("none/3", "no such directory"), ("checkpoints/2", "a checkpoint")]:
        with pytest.raises(InputError, match=match):
            read_failed_step(tmp_path / path)
