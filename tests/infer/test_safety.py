"""Whatever the network says, what reaches a robot is finite, within limits, or a hold with a name."""

import jax
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.statistics import Statistics
from wallwm_jax.infer import safety
from wallwm_jax.infer.conditions import ChunkSettings, WindowSettings
from wallwm_jax.infer.denoise import SolverSettings
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings
from wallwm_jax.infer.safety import Limits, SafetySettings
from wallwm_jax.infer.unified_mode import UnifiedMode, UnifiedModeSettings

KEY = jax.random.key(0)
SOLVER = SolverSettings(video_steps=2, action_steps=2, anchor_step=25)
BROKEN = {"action": safety.NON_FINITE_ACTIONS, "late video": safety.NON_FINITE_VIDEO}


@pytest.fixture(scope="module")
def broken_flow(known_flow):
    """The known flow with one output of the first row that is no number."""

    class BrokenFlow(known_flow):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def action(self, *arguments, **options):
            return self._spoilt("action", super().action(*arguments, **options))

        def duration(self, *arguments, **options):
            return self._spoilt("duration", super().duration(*arguments, **options))

        def video(self, batch, noisy, keyframes, time, **options):
            velocity, features = super().video(batch, noisy, keyframes, time, **options)
            late = (time[0, 0] < 0.99) & (self.part == "late video")
            return jax.numpy.where(late, self._spoilt("late video", velocity), velocity), features

        def _spoilt(self, part, values):
            return values.at[0].set(jax.numpy.nan) if part == self.part else values

    return BrokenFlow


def assert_holds(prediction, state, name):
    assert prediction.failure.name == name and prediction.frames is None
    actions = prediction.actions.actions
    assert np.isfinite(actions).all() and prediction.actions.step_mask.all()
    np.testing.assert_array_equal(actions, np.tile(state, (len(actions), 1)))


@pytest.mark.parametrize("part", BROKEN)
def test_a_broken_event_becomes_a_hold(part, broken_flow, embodiment, statistics, observe):
    """The failure is named, the pose held for the event's steps; the other row's event is as it was."""
    window = WindowSettings(text_length=16, max_latent_frames=2, buckets=(2,))
    settings = EventModeSettings(2, window, SOLVER)
    broken, sound = (EventMode(broken_flow(p), {}, embodiment, statistics, settings) for p in (part, "none"))
    events = ([observe(0), observe(1)], ["lift", "press"], [5, 6])
    first, second = broken.predict(*events, key=KEY)
    assert_holds(first, observe(0).state, BROKEN[part])
    assert len(first.actions.actions) == 5
    expected = sound.predict(*events, key=KEY)
    assert second.failure is None and expected[0].failure is None
    np.testing.assert_array_equal(second.actions.actions, expected[1].actions.actions)
    np.testing.assert_array_equal(second.frames, expected[1].frames)


def test_a_broken_duration_becomes_a_hold(broken_flow, embodiment, statistics, observe):
    """A length that is no number is a failure of its own: one step of holding still."""
    window = WindowSettings(text_length=16, max_latent_frames=2, buckets=(2,))
    mode = EventMode(broken_flow("duration"), {}, embodiment, statistics, EventModeSettings(2, window, SOLVER))
    first, second = mode.predict([observe(0), observe(1)], ["lift", "press"], key=KEY, dream=False)
    assert_holds(first, observe(0).state, safety.NON_FINITE_DURATION)
    assert len(first.actions.actions) == 1 and second.failure is None and second.steps == 6


@pytest.mark.parametrize("part", BROKEN)
def test_a_broken_chunk_becomes_a_hold(part, broken_flow, embodiment, statistics, observe):
    """As for events, for the robot it happens to alone."""
    window = ChunkSettings(history_latents=1, future_latents=1, text_length=16)
    mode = UnifiedMode(broken_flow(part), {}, embodiment, statistics, UnifiedModeSettings(2, window, SOLVER))
    histories = [mode.history(), mode.history()]
    for seed, history in enumerate(histories):
        history.push(observe(seed))
    first, second = mode.act(histories, ["lift", "press"], key=KEY, dream=True)
    assert_holds(first, observe(0).state, BROKEN[part])
    assert second.failure is None and second.frames is not None and len(first.actions.actions) == 8


def test_a_state_that_is_no_number_is_refused(embodiment, statistics, known_flow, observe):
    """There is no pose to hold then: an error that names the observation and the degrees of freedom."""
    mode = EventMode(known_flow(), {}, embodiment, statistics, EventModeSettings())
    with pytest.raises(InputError, match=r"observation 0: state: found no finite number.*10"):
        mode.predict([observe(0)._replace(state=np.full(26, np.nan, np.float32))], ["lift"], [3], key=KEY)


def ranges():
    """Recorded positions of 0 to 1 m; grippers measured from 0.4 to 1 and commanded from 0 to 1."""
    low, high = np.zeros(26), np.ones(26)
    low[19] = 0.4
    return Statistics(low, high, np.where(np.arange(26) == 19, 0.0, -0.1), np.where(np.arange(26) == 19, 1.0, 0.1))


def test_poses_are_clipped_to_the_recorded_range_with_a_margin():
    """Beyond the margin a number is clipped and counted; within it, in rotations and in absent degrees of freedom it is
    left alone; a gripper's range is that of its commands."""
    limits, dof = Limits.of(ranges(), SafetySettings(margin=0.1, least=0.02)), np.zeros(26, bool)
    dof[[10, 11, 12, 13, 19]] = True
    anchor = np.full(26, 0.5)
    actions = np.tile(anchor, (2, 1)).astype(np.float32)
    actions[0, 10], actions[0, 11], actions[0, 13], actions[1, 19], actions[1, 0] = 1.2, -0.05, 9.0, -0.05, 7.0
    clipped, count = limits.clip(actions, anchor, dof)
    expected = actions.copy()
    expected[0, 10] = 1.1
    np.testing.assert_allclose(clipped, expected, atol=1e-6)
    assert count == 1 and clipped.dtype == np.float32


def test_a_robot_outside_the_limits_is_not_made_to_jump():
    """Limits reach as far as the pose that the robot is in: it may stay there or come back, and go no further."""
    limits, dof, anchor = (
        Limits.of(ranges(), SafetySettings(margin=0.0, least=0.0)),
        np.ones(26, bool),
        np.full(26, 0.5),
    )
    anchor[10] = 1.5
    actions = np.tile(anchor, (3, 1))
    actions[1, 10], actions[2, 10] = 1.2, 1.6
    clipped, count = limits.clip(actions, anchor, dof)
    np.testing.assert_allclose(clipped[:, 10], [1.5, 1.2, 1.5])
    assert count == 1


def test_impossible_settings_are_refused():
    """The message names the field."""
    for field in ("margin", "least"):
        with pytest.raises(InputError, match=f"safety.{field}"):
            SafetySettings(**{field: -0.1})
