"""Where the action tower reads the video tower."""

import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.denoise import SolverSettings
from wallwm_jax.objectives.anchor import AnchorSchedule
from wallwm_jax.objectives.world_action import ActionSettings


def test_the_anchor_is_step_45_of_50_from_pure_noise():
    """A shift of 5 gives the paper's mid-noise t = 0.36, no shift gives 0.1, and step 0 is pure noise."""
    assert AnchorSchedule().anchor_time == pytest.approx(0.357, abs=1e-3)
    assert AnchorSchedule(shift=1.0).anchor_time == pytest.approx(0.1)
    assert AnchorSchedule(anchor_step=0).anchor_time == 1.0


def test_training_and_inference_have_one_schedule():
    """Its defaults and its checks are those of the objective and of the solver, which add fields of their own."""
    assert ActionSettings(draws=3).schedule == SolverSettings(video_steps=3).schedule == AnchorSchedule()
    for kind in (AnchorSchedule, ActionSettings, SolverSettings):
        with pytest.raises(InputError, match=r"anchor_step: found 51, expected a step of 0\.\.50"):
            kind(anchor_step=51)
        with pytest.raises(InputError, match="denoise_steps: found 0"):
            kind(anchor_step=0, denoise_steps=0)
