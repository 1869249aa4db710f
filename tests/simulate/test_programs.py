"""Programs and captions, without any simulator."""

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate import programs
from wallwm_jax.simulate.stock_experts import LONGEST_EVENT, segment_borders


def test_programs_have_the_stated_lengths():
    """At least five long programs of 14 to 20 events and short ones of 3 to 7."""
    assert len(programs.LONG_PROGRAMS) >= 5
    assert all(14 <= len(item.primitives) <= 20 for item in programs.LONG_PROGRAMS)
    assert all(3 <= len(item.primitives) <= 7 for item in programs.SHORT_PROGRAMS)
    with pytest.raises(InputError, match="program"):
        programs.program("juggle")


def test_every_verb_has_six_paraphrases_that_name_the_object():
    """Captions of one verb differ, name the object and, for move and place, the target."""
    seen = set()
    for item in (*programs.LONG_PROGRAMS, *programs.SHORT_PROGRAMS):
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
