"""Programs and captions, without any simulator."""

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate import programs
from wallwm_jax.simulate.stock_experts import LONGEST_EVENT, segment_borders


def test_programs_have_the_stated_lengths():
    """At least five long programs of 14 to 20 events, short ones of 3 to 7 and tours of 27 to 30."""
    assert len(programs.LONG_PROGRAMS) >= 5
    assert all(14 <= len(item.primitives) <= 20 for item in programs.LONG_PROGRAMS)
    assert all(3 <= len(item.primitives) <= 7 for item in programs.SHORT_PROGRAMS)
    assert all(27 <= len(item.primitives) <= 30 for item in programs.TOUR_PROGRAMS)
    with pytest.raises(InputError, match="program"):
        programs.program("juggle")


def test_a_tour_reaches_for_every_object_and_for_pucks_in_three_places():
    """Each scene of a tour shows both pucks' first places and the mat, whence one puck goes on to the drawer."""
    for item in programs.TOUR_PROGRAMS:
        reached = [primitive.object for primitive in item.primitives if primitive.verb == "reach"]
        assert {"red puck", "blue puck", "drawer handle", "button"} == set(reached), item.name
        assert sum(name.endswith("puck") for name in reached) == 3
        pairs = [task.split(">") for task in item.tasks if ">" in task]
        again = [colour for colour, _ in pairs if [colour, "mat"] in pairs and [colour, "drawer"] in pairs]
        assert len(set(again)) == 1 and pairs.index([again[0], "mat"]) < pairs.index([again[0], "drawer"])


def test_every_verb_has_six_paraphrases_that_name_the_object():
    """Captions of one verb differ, name the object and, for move and place, the target."""
    seen = set()
    for item in (*programs.LONG_PROGRAMS, *programs.SHORT_PROGRAMS, *programs.TOUR_PROGRAMS):
        for primitive in item.primitives:
            rows = programs.paraphrases(primitive)
            assert len(set(rows)) == len(rows) == 6
            assert all(primitive.object in row for row in rows)
            assert primitive.target is None or all(primitive.target in row for row in rows)
            assert programs.caption(primitive, np.random.default_rng(0)) in rows
            seen.add(primitive.verb)
    assert seen == set(programs.VERBS)


def test_a_drawer_that_takes_a_puck_first_starts_wide_open():
    """The start's opening follows from the first use of the drawer."""
    assert programs.program("tidy_red").initial_opening[1] <= 0.05
    assert programs.program("close_only").initial_opening[0] >= 0.06
    assert programs.program("red_to_drawer").initial_opening[0] >= 0.14


def test_segments_of_stock_episodes_cover_them():
    """Borders lie where the gripper flips, cover the episode and leave no segment longer than the limit."""
    state, action = np.zeros((130, 4)), np.zeros((130, 4))
    state[:, 0] = np.arange(130) * 0.01
    action[50:90, 3] = 1.0
    borders = segment_borders(state, action)
    assert borders[0] == 0 and borders[-1] == 130 and {50, 90} <= set(borders)
    assert np.diff(borders).min() > 0 and np.diff(borders).max() <= LONGEST_EVENT
