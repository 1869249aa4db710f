"""Resuming: a run that was cut off at a random step ends with the bits of one that was not."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import digest
from wallwm_jax.train.checkpoint import read_checkpoint
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.fit import fit
from wallwm_jax.train.metrics import WALL_CLOCK, read_metrics
from wallwm_jax.train.run import StageData, Start
from wallwm_jax.train.state import averaged_parameters

STEPS = 11
DATA = StageData(lambda step: (random_batch(100 + number) for number in range(step, STEPS)), (random_batch(99),))


class Interruption(Exception):
    """Stands for a killed process."""


class Silent:
    """A reporter that says nothing and can end the run after a step."""

    def __init__(self, last=None):
        self.last, self.lines, self.started = last, [], None

    def start(self, stage, step, steps):
        self.started = step

    def advance(self, step):
        if step == self.last:
            raise Interruption

    def report(self, line):
        self.lines.append(line)

    def note(self, text):
        self.lines.append(text)

    def stop(self):
        pass


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, make_run, initial):
    """(directory, final state) of a run without incident."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, fit(make_run("video", directory), Start.given(initial[0]), DATA, Silent())


def _without_clock(directory):
    lines = read_metrics(directory / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in WALL_CLOCK} for line in lines]


def test_interrupted_equals_uninterrupted(tmp_path, make_run, initial, uninterrupted):
    """Cut off twice at random steps and resumed: parameters, moments, average, counters and the lines of metrics are
    those of the whole run, bit for bit; no step is reported twice."""
    first, second = sorted(np.random.default_rng(4).choice(np.arange(1, STEPS), 2, replace=False))
    for last in (int(first), int(second)):
        with pytest.raises(Interruption):
            fit(make_run("video", tmp_path), Start.given(initial[0]), DATA, Silent(last))
    reporter = Silent()
    state = fit(make_run("video", tmp_path), Start.given(initial[0]), DATA, reporter)
    assert reporter.started == max(3 * ((int(second) - 1) // 3), 0)
    assert digest(state) == digest(uninterrupted[1])
    assert _without_clock(tmp_path) == _without_clock(uninterrupted[0])


def test_lines_and_finished_runs(make_run, initial, uninterrupted):
    """Lines at every second step, every fourth with a held-out loss and the last with the average's; a finished run
    does nothing and keeps its files."""
    directory, state = uninterrupted
    lines = _without_clock(directory)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 11]
    assert [line["step"] for line in lines if "heldout_loss" in line] == [4, 8, 11]
    assert [line["step"] for line in lines if "heldout_loss_average" in line] == [11]
    assert lines[-1]["events"] == 3 * STEPS == int(state.events)
    again = fit(make_run("video", directory), Start.given(initial[0]), DATA, Silent(0))
    assert digest(again) == digest(state)
    assert _without_clock(directory) == lines


def test_the_checkpoint_says_what_it_holds(uninterrupted):
    """Read without a model: step, records, raw parameters, and averages for what was trained."""
    directory, state = uninterrupted
    found = read_checkpoint(directory / "checkpoints")
    assert found.step == STEPS and found.records.statistics == {"q": [0.5]} and found.records.config == {"seed": 0}
    assert digest(found.parameters) == digest(state.parameters)
    averaged = averaged_parameters(state, stage_of("video"))
    assert digest(found.averaged) == digest(averaged) != digest(found.parameters)
    names = {path.name for path in (directory / "checkpoints" / str(STEPS)).rglob("*.json")}
    assert {"config.json", "statistics.json", "embodiment.json", "model.json", "manifest.json"} <= names


def test_another_architecture_is_refused(make_run, initial, uninterrupted):
    """A checkpoint of another size names the field; one whose arrays differ names the array."""
    directory, _ = uninterrupted
    run = make_run("video", directory)
    other = dict(run.records.model, views=3)
    with pytest.raises(InputError, match=r"model\.views: found 2, expected 3"):
        changed = dataclasses.replace(run, records=run.records._replace(model=other))
        fit(changed, Start.given(initial[0]), DATA, Silent())
    wider = jax.tree.map(lambda leaf: leaf, initial[0])
    wider["duration"] = {name: leaf for name, leaf in wider["duration"].items() if name != min(wider["duration"])}
    declarations = dict(initial[1], duration={name: initial[1]["duration"][name] for name in wider["duration"]})
    with pytest.raises(InputError, match=r"parameters/duration/.*expected no such array"):
        fit(dataclasses.replace(run, declarations=declarations), Start.given(wider), DATA, Silent())


def test_an_error_in_the_data_surfaces(tmp_path, make_run, initial):
    """An error in the loader's thread ends the run with that error; so do batches that run out."""

    def failing(step):
        yield random_batch(0)
        raise InputError("frames", "a hole", "frames")

    with pytest.raises(InputError, match="a hole"):
        fit(make_run("video", tmp_path), Start.given(initial[0]), StageData(failing, ()), Silent())
