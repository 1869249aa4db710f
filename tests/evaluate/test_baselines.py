"""Baselines and the scene-dependence rule on trajectories whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.evaluate.baselines import EventTrajectory, MeanTrajectory, hold_still, scene_dependence
from wallwm_jax.evaluate.errors import MILLIMETRES, OPENING, summarise, trajectory_error, unit_of


def _event(verb, end, steps, anchor=(0.1, 0.2, 0.3), episode=0, gripper=(1.0, 1.0), name="puck"):
    """A straight line of `steps` steps from `anchor` by `end` metres; the gripper goes from one opening to another."""
    state = np.zeros(26)
    state[10:13], state[19] = anchor, gripper[0]
    fraction = (np.arange(steps) + 1)[:, None] / steps
    actions = np.zeros((steps, 26))
    actions[:, 10:13] = np.array(anchor) + fraction * np.array(end)
    actions[:, 19:20] = gripper[0] + fraction * (gripper[1] - gripper[0])
    return EventTrajectory(verb, name, episode, state, actions)


def test_errors_are_in_physical_units():
    """A constant 30-40-0 mm offset is 50 mm along and at the end; grippers err by openings; the left arm is ignored."""
    truth = _event("reach", (0.1, 0, 0), 5).actions
    predicted = truth + np.eye(26)[10] * 0.03 + np.eye(26)[11] * 0.04 + np.eye(26)[0]
    error = trajectory_error(predicted, truth, MILLIMETRES)
    assert error.along == pytest.approx(50) and error.end == pytest.approx(50)
    predicted[-1, 19] += 0.5
    error = trajectory_error(predicted, truth, OPENING)
    assert error.along == pytest.approx(0.1) and error.end == pytest.approx(0.5)
    assert unit_of("grasp") == unit_of("release") == OPENING and unit_of("lift") == MILLIMETRES


def test_hold_still_errs_by_the_displacement():
    event = _event("grasp", (0, 0, 0.2), 4, gripper=(1.0, 0.2))
    held = hold_still(event.anchor, 4)
    assert trajectory_error(held, event.actions, MILLIMETRES).end == pytest.approx(200)
    assert trajectory_error(held, event.actions, OPENING).end == pytest.approx(0.8)


@settings(max_examples=20)
@given(steps=st.integers(1, 60), other=st.integers(1, 60), start=st.floats(-1, 1))
def test_mean_of_equal_motions_predicts_them_at_any_length_and_place(steps, other, start):
    """Displacement is averaged relative to the anchor in normalised time: the end is exact for every length. Along the
    way only the first instants (before the averaged curve's first point) may differ."""
    mean = MeanTrajectory.fit([_event("lift", (0.0, 0.1, 0.2), steps), _event("lift", (0.0, 0.1, 0.2), steps)])
    target = _event("lift", (0.0, 0.1, 0.2), other, anchor=(start, 0, 0))
    predicted = mean.predict(target)
    assert predicted.shape == (other, 26)
    np.testing.assert_allclose(predicted[-1], target.actions[-1], atol=1e-12)
    if steps >= 32 and other <= 32:
        np.testing.assert_allclose(predicted, target.actions, atol=1e-9)


def test_mean_is_of_verb_and_object_then_of_the_verb():
    """Objects do not mix; an unseen object falls back to the verb; an unseen verb gives nothing."""
    mean = MeanTrajectory.fit(
        [_event("reach", (0.1, 0, 0), 8, name="puck"), _event("reach", (0.3, 0, 0), 8, name="drawer")]
    )
    for name, expected in (("puck", 0.1), ("drawer", 0.3), ("button", 0.2)):
        target = _event("reach", (0.5, 0, 0), 8, name=name)
        assert mean.predict(target)[-1, 10] - target.anchor[10] == pytest.approx(expected)
    assert mean.predict(_event("open", (0.5, 0, 0), 8)) is None


def test_without_equals_fitting_the_rest():
    events = [_event("lift", (0.01 * i, 0, 0.1), 5 + i) for i in range(4)]
    rest = MeanTrajectory.fit(events).without(MeanTrajectory.fit(events[:1]))
    np.testing.assert_allclose(rest.predict(events[0]), MeanTrajectory.fit(events[1:]).predict(events[0]), atol=1e-12)


def test_scene_dependence_finds_the_verb_whose_target_varies():
    """Reach goes to random places, lift always rises alike, release only opens: only reach depends on the scene."""
    generator = np.random.default_rng(0)
    events = []
    for episode in range(20):
        events.append(_event("reach", generator.uniform(-0.3, 0.3, 3), 20, episode=episode))
        events.append(_event("lift", (0, 0, 0.15 + generator.normal() * 0.002), 10, episode=episode))
        events.append(_event("release", (0, 0, 0), 5, episode=episode, gripper=(0.3, 1.0)))
    verdicts = scene_dependence(events)
    assert {verb for verb, verdict in verdicts.items() if verdict.scene_dependent} == {"reach"}
    assert verdicts["lift"].mean_end < 5 and verdicts["lift"].hold_end > 140
    assert verdicts["release"].unit == OPENING and verdicts["release"].hold_end == pytest.approx(0.7)


def test_scene_dependence_predicts_an_episode_from_the_others():
    """One far event an episode: were it in its own mean, its error would be half as large."""
    events = [_event("move", (sign * 0.2, 0, 0), 6, episode=i) for i, sign in enumerate((1, -1))]
    assert scene_dependence(events)["move"].mean_end == pytest.approx(400)


def test_summary_is_median_and_mean():
    truth = np.zeros((2, 26))
    errors = [trajectory_error(truth + np.eye(26)[10] * d, truth, MILLIMETRES) for d in (0.001, 0.002, 0.009)]
    summary = summarise(errors)
    assert summary.end_median == pytest.approx(2) and summary.end_mean == pytest.approx(4)
