"""Where the time goes: every second has one kind, and what is done twice is lost once."""

import dataclasses
import functools
import itertools
import json

import pytest

from tests.train.test_fit import Silent
from tests.train.toy import toy_data, toy_run, toy_start
from wallwm_jax.core.errors import InputError
from wallwm_jax.train.fit import fit
from wallwm_jax.train.goodput import FILE, KINDS, Goodput, goodput
from wallwm_jax.train.line_files import read_lines
from wallwm_jax.train.stop import StopSignals


def test_every_second_has_one_kind(tmp_path):
    """On a clock that ticks once a look: kinds nest, and go on where they were."""
    clock = Goodput(tmp_path, itertools.count().__next__)
    clock.turn_to("train")
    with clock.spent_on("evaluate"), clock.spent_on("data"):
        pass
    clock.write(5)
    (line,) = [json.loads(text) for text in (tmp_path / FILE).read_text().splitlines()]
    assert line == {"attempt": 1, "step": 5} | dict.fromkeys(KINDS, 0) | {
        "init": 1, "train": 2, "evaluate": 2, "data": 1,
    }  # fmt: skip


def test_what_is_done_twice_is_lost(tmp_path):
    """The first attempt had come to step 8 when it was killed, the second one began at 6: the seconds from 6 to 8 are
    lost, all others count for what they were spent on."""
    seconds = dict.fromkeys(KINDS, 0.0)
    lines = [
        {"attempt": 1, "step": 0, **seconds, "init": 2.0},
        {"attempt": 1, "step": 6, **seconds, "init": 2.0, "train": 6.0},
        {"attempt": 1, "step": 8, **seconds, "init": 2.0, "train": 8.0, "data": 0.5},
        {"attempt": 2, "step": 6, **seconds, "init": 1.0},
        {"attempt": 2, "step": 10, **seconds, "init": 1.0, "train": 4.0},
    ]
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert goodput(tmp_path) == {**seconds, "init": 3.0, "train": 10.0, "lost": 2.5}
    with pytest.raises(InputError, match="no such file"):
        goodput(tmp_path / "nowhere")


def test_short_times_are_not_rounded_away(tmp_path):
    """A batch that was waited for 200 microseconds took time, too."""
    clock = Goodput(tmp_path, itertools.count(step=2e-4).__next__)
    with clock.spent_on("data"):
        pass
    clock.write(1)
    assert goodput(tmp_path)["data"] == pytest.approx(2e-4, rel=1e-6)


def test_damaged_lines_are_set_aside(tmp_path):
    """The attempts of the lines that can be read are counted on, a person is told once, and the file as it was is
    kept; reading a damaged file names the line."""
    text = json.dumps({"attempt": 3, "step": 5, **dict.fromkeys(KINDS, 1.0)}) + "\n" + '{"attempt": 4, "st\x00\n{}\n'
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=rf"{FILE}: line 2: found damaged text, expected a JSON object with numbers"):
        goodput(tmp_path)
    notes = []
    clock = Goodput(tmp_path, itertools.count().__next__, notes.append)
    clock.write(6)
    assert [(line["attempt"], line["step"]) for line in read_lines(tmp_path / FILE, KINDS, "")] == [(3, 5), (4, 6)]
    assert notes == [f"{tmp_path / FILE}: line 2 is damaged; the file as it was is kept as {FILE}.damaged"]
    assert (tmp_path / f"{FILE}.damaged").read_text() == text


def test_a_run_keeps_the_record(tmp_path, monkeypatch):
    """Two attempts, of which the first is asked to stop and so loses nothing: compiling, training, evaluating and
    saving all took time, and the lines end with the last step. The clock ticks whenever it is looked at, so that no
    machine is too fast for it."""
    ticking = functools.partial(Goodput, clock=itertools.count().__next__)
    monkeypatch.setattr("wallwm_jax.train.fit.Goodput", ticking)

    class Stopping(Silent):
        def advance(self, step):
            if step == 5:
                stop.received = "SIGTERM"

    stop = StopSignals()
    fit(toy_run(tmp_path), toy_start(), toy_data(), Stopping(), stop)
    fit(toy_run(tmp_path), toy_start(), toy_data(), Silent())
    lines = [json.loads(text) for text in (tmp_path / FILE).read_text().splitlines()]
    assert [(lines[0][name], lines[-1][name]) for name in ("attempt", "step")] == [(1, 2), (0, 12)]
    found = goodput(tmp_path)
    assert found["lost"] == 0 and all(found[kind] > 0 for kind in KINDS)


def test_steps_can_be_profiled(tmp_path):
    """The trace of the steps that are named, and of a run that names none there is none."""
    fit(toy_run(tmp_path / "plain", steps=2), toy_start(), toy_data(), Silent())
    fit(toy_run(tmp_path / "traced", steps=4, profile=(2, 3)), toy_start(), toy_data(), Silent())
    assert not (tmp_path / "plain" / "profile").exists()
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))
    for profile in ((3, 2), (0, 1), (1,)):
        with pytest.raises(InputError, match="profile: found"):
            dataclasses.replace(toy_run(tmp_path).settings.run, profile=profile)
