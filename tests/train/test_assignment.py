"""Which optimizer gets which parameter is said when a run starts, and kept."""

import dataclasses

import pytest

from tests.train.test_fit import Silent
from tests.train.toy import TOY, toy_parameters, toy_run
from wallwm_jax.core.errors import InputError
from wallwm_jax.train.assignment import announce_assignment, read_assignment


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_assignment_is_said_and_kept(tmp_path, optimizer):
    """Every trained array, and none else, has a row that names the run's own optimizer; the lines add them up."""
    reporter, run = Silent(), toy_run(tmp_path, optimizer=optimizer)
    announce_assignment(run, toy_parameters(), reporter)
    rows = {row.pop("name"): row for row in read_assignment(tmp_path)}
    assert rows["linear/weight"]["optimizer"] == optimizer and rows["linear/weight"]["decay"]
    assert rows["linear/bias"] == {
        "shape": [26], "numbers": 26, "axes": "output", "optimizer": "adamw", "decay": False,
    }  # fmt: skip
    assert set(rows) == {"linear/weight", "linear/bias"}
    said = {"muon": ["muon: 676 numbers in 1 arrays", "adamw: 26 numbers in 1 arrays"]}
    said["adamw"] = ["adamw: 702 numbers in 2 arrays"]
    assert reporter.lines[:-1] == said[optimizer]
    assert reporter.lines[-1] == f"frozen: 26 numbers; the whole table: {tmp_path / 'assignment.json'}"


def test_frozen_towers_that_nothing_has_trained_are_named(tmp_path):
    """A first stage that freezes a tower keeps its random numbers: the run says so; one that goes on from another
    stage does not."""
    stage = dataclasses.replace(TOY, trains=frozenset({"linear", "frozen"}))
    for earlier, expected in ((None, True), ("video", False)):
        reporter, chosen = Silent(), dataclasses.replace(stage, starts_from=earlier)
        announce_assignment(toy_run(tmp_path, stage=chosen, freeze=("frozen",)), toy_parameters(), reporter)
        assert ("frozen as they were drawn, no stage has trained them: frozen" in reporter.lines) == expected


def test_a_missing_table_is_named(tmp_path):
    """As bad input, with its path."""
    with pytest.raises(InputError, match=r"assignment\.json"):
        read_assignment(tmp_path)
