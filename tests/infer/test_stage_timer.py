"""Seconds of stages: they add up by name, and taking them starts again from zero."""

import time

import jax.numpy as jnp

from wallwm_jax.infer.stage_timer import StageTimer, timed


def test_seconds_add_up_until_they_are_taken():
    """Two calls of one stage, one of another; the results are those of the functions."""
    timer = StageTimer()
    assert timer.run("video", jnp.add, 1, 2) == 3
    timer.run("video", time.sleep, 0.01)
    timer.run("action", time.sleep, 0.02)
    seconds = timer.take()
    assert set(seconds) == {"video", "action"} and seconds["video"] >= 0.01 and seconds["action"] >= 0.02
    assert timer.take() == {}


def test_without_a_timer_nothing_is_measured():
    """The function is called all the same."""
    assert timed(None, "video", max, 1, 2) == 2
