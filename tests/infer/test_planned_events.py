"""Event mode with a planner: good answers are performed; whatever goes wrong is named and the robot holds still."""

import json
import threading

import jax
import numpy as np
import pytest

from wallwm_jax.infer import planner as names
from wallwm_jax.infer.conditions import WindowSettings
from wallwm_jax.infer.denoise import SolverSettings
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings
from wallwm_jax.infer.planned_events import PlannedEvents
from wallwm_jax.infer.planner import PlannerSettings
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import EMPTY_TEXT, NON_FINITE_VIDEO

KEY, ARM = jax.random.key(0), [10, 11, 12]
SETTINGS = PlannerSettings(seconds=5.0, text_length=24, captions=frozenset({"lift", "reach"}), hold_steps=3)
PLAN = json.dumps({"state": "initial_plan", "plan": ["lift"]})
END = json.dumps(
    {
        "state": "end", "task_progress_percent": 100, "predictions": [{"available": False}, {"available": False}],
        "execution_decision": "End", "decision_detail": "",
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def make_mode(embodiment, statistics, known_flow):
    def make(feature_scale=0.0):
        settings = EventModeSettings(1, WindowSettings(text_length=24), SolverSettings(video_steps=2, action_steps=2))
        return EventMode(known_flow(feature_scale), {}, embodiment, statistics, settings)

    return make


@pytest.fixture(scope="module")
def mode(make_mode):
    return make_mode()


def act(mode, planner, observation, instruction="tidy up", settings=SETTINGS):
    return PlannedEvents(mode, planner, settings).act(Request(observation, instruction), key=KEY)


def assert_held(event, observation, name):
    assert event.caption is None and (event.failure.name if event.failure else None) == name
    assert event.actions.actions.shape == (3, 26) and event.actions.step_mask.all()
    np.testing.assert_array_equal(event.actions.actions, np.tile(observation.state, (3, 1)))


def test_the_planners_event_is_performed(mode, observe):
    """The actions are those that event mode gives for the planner's caption, and the planner's state is passed on."""
    observation = observe(0)
    event = act(mode, lambda request: PLAN, observation)
    (expected,) = mode.predict([observation], ["lift"], key=KEY, dream=False)
    assert event.caption == "lift" and event.failure is None and event.state.plan == ("lift",)
    np.testing.assert_array_equal(event.actions.actions, expected.actions.actions)
    assert np.abs(event.actions.actions[:, ARM] - observation.state[ARM]).max() > 1e-3


def test_when_the_planner_ends_the_robot_stays(mode, observe):
    """An end is no failure, and nothing to perform."""
    observation = observe(1)
    event = act(mode, lambda request: END, observation)
    assert_held(event, observation, None)
    assert event.state.ended


def broken(request):
    raise RuntimeError("no connection")


@pytest.mark.parametrize(
    "planner, name",
    [
        (broken, names.PLANNER_ERROR),
        (lambda request: "lift", names.PLANNER_SCHEMA),
        (lambda request: None, names.PLANNER_SCHEMA),
        (lambda request: PLAN.replace("lift", "juggle"), names.UNKNOWN_CAPTION),
    ],
)
def test_a_planner_that_fails_is_named(mode, observe, planner, name):
    """Raising, answering outside the schema and an event that nobody knows: each by its name, the pose held."""
    observation = observe(2)
    assert_held(act(mode, planner, observation), observation, name)


def test_a_planner_that_hangs_is_named_in_time(mode, observe):
    """After the time limit, and again while it still hangs."""
    observation, release = observe(3), threading.Event()
    settings = PlannerSettings(seconds=0.05, text_length=24, hold_steps=3)
    events = PlannedEvents(mode, lambda request: release.wait() and PLAN, settings)
    request = Request(observation, "tidy up")
    assert_held(events.act(request, key=KEY), observation, names.PLANNER_TIMEOUT)
    assert_held(events.act(request, key=KEY), observation, names.PLANNER_BUSY)
    release.set()


@pytest.mark.parametrize("instruction", ["", "  "])
def test_an_empty_instruction_is_named(mode, observe, instruction):
    """The planner is not even asked."""
    observation = observe(4)
    assert_held(act(mode, broken, observation, instruction), observation, EMPTY_TEXT)


def test_a_network_that_fails_is_named(make_mode, observe):
    """Numbers that are none never leave: the event is not performed, whatever the planner said."""
    observation = observe(5)
    event = act(make_mode(np.nan), lambda request: PLAN, observation)
    assert event.caption is None and event.failure is not None and event.state is not None
    assert np.isfinite(event.actions.actions).all()
    np.testing.assert_array_equal(
        event.actions.actions[:, ARM], np.tile(observation.state[ARM], (len(event.actions.actions), 1))
    )
    assert event.failure.name != NON_FINITE_VIDEO
