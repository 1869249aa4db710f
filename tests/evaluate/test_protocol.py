"""The protocol's file is checked field by field, and its episodes are a function of it."""

import json
import pathlib
import shutil

import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.protocol import ClosedLoopProtocol
from wallwm_jax.simulate import composition, programs

FOLDER = pathlib.Path("data_specs/protocols")


@pytest.fixture(scope="module")
def protocol():
    return ClosedLoopProtocol.load(FOLDER / "tabletop.json")


def load_changed(folder, change):
    values = json.loads((FOLDER / "tabletop.json").read_text())
    change(values)
    shutil.copy(FOLDER / "tabletop_rubric.json", folder)
    (folder / "changed.json").write_text(json.dumps(values))
    return ClosedLoopProtocol.load(folder / "changed.json")


def test_the_file_is_kept_word_for_word(protocol):
    """What a result stores is what the file says."""
    assert protocol.source == json.loads((FOLDER / "tabletop.json").read_text())
    assert protocol.rubric.source == json.loads((FOLDER / "tabletop_rubric.json").read_text())


def test_every_kind_of_cell_is_there_and_each_scene_once(protocol):
    """Trained, unseen and switched programs, sixty episodes or more of each; no two episodes share a scene."""
    assert {cell.kind for cell in protocol.cells} == {"in distribution", "unseen", "switched"}
    episodes = [episode for cell in protocol.cells for episode in protocol.episodes(cell)]
    assert len({episode.seed for episode in episodes}) == len(episodes) >= 180
    assert all(cell.episodes >= 60 for cell in protocol.cells)
    assert {episode.name for episode in protocol.episodes(protocol.cell("unseen"))} == {
        item.name for item in programs.UNSEEN_PROGRAMS
    }


def test_every_episode_can_be_done(protocol):
    """The tasks asked for are feasible from the scene's start, and so is what a switched episode asks for at first."""
    for cell in protocol.cells:
        for episode in protocol.episodes(cell):
            assert composition.feasible(episode.tasks, composition.start(episode.start.tasks)), episode.name


def test_an_instruction_changes_where_the_switch_is(protocol):
    """Until then the first program's own words hold, after it words for the second's tasks."""
    cell = protocol.cell("switched")
    for switch, episode in zip(cell.switches, protocol.episodes(cell), strict=False):
        said = [episode.instruction(place) for place in range(len(episode.tasks))]
        assert set(said[: switch.after]) == {programs.program(switch.program).caption}
        assert len(set(said[switch.after :])) == 1 and said[switch.after] != said[0]


def test_the_same_seed_means_the_same_words(protocol, tmp_path):
    """Composed wording is drawn by the episode's seed alone."""
    composed = load_changed(tmp_path, lambda v: v.update(instructions="composed"))
    cell = composed.cell("in distribution")
    assert composed.episodes(cell, 9) == composed.episodes(cell, 12)[:9]
    said = {episode.instruction(0) for episode in composed.episodes(cell)}
    assert len(said) > 20 and len({e.instruction(0) for e in protocol.episodes(protocol.cell("in distribution"))}) == 24
    with pytest.raises(InputError, match="episodes of cell"):
        composed.episodes(cell, 73)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v.pop("event_steps"), "event_steps"),
        (lambda v: v.update(speed=1), "speed"),
        (lambda v: v.update(event_steps=0), "event_steps"),
        (lambda v: v.update(replan_every=-1), "replan_every"),
        (lambda v: v.update(captions="funny"), "captions"),
        (lambda v: v.update(views=[]), "views"),
        (lambda v: v["limits"].update(low=[0, 0]), "limits"),
        (lambda v: v["limits"].update(low=[2, 2, 2, 2]), "limits"),
        (lambda v: v.update(cells=[]), "cells"),
        (lambda v: v["cells"][0].update(kind="easy"), r"cells\[0\].kind"),
        (lambda v: v["cells"][0].update(programs=["juggle"]), "program"),
        (lambda v: v["cells"][0].update(kind="unseen"), r"cells\[0\].programs"),
        (
            lambda v: v["cells"][0].update(first_seed=10_190),
            "seed 10190 of cell 'in distribution': found in the recording plan",
        ),
        (lambda v: v["cells"][1].update(first_seed=5_000_010), "seed 5000010 .* cell 'in distribution'"),
        (lambda v: v["cells"][2]["switches"][0].update(after=4), "switches"),
        (lambda v: v["cells"][2]["switches"][0].update({"from": 0}), r"switches\[0\]: found the tasks"),
        (lambda v: v["cells"][2].update(switches=[]), r"cells\[2\]"),
    ],
)
def test_a_wrong_field_is_refused_by_name(tmp_path, change, field):
    with pytest.raises(InputError, match=field):
        load_changed(tmp_path, change)
