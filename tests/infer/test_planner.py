"""The guard around planners: whatever they do, the answer comes in time and is a state or a named failure."""

import json
import threading
import time

import numpy as np
import pytest

from wallwm_jax.infer import planner as module
from wallwm_jax.infer.planner import GuardedPlanner, PlannerSettings
from wallwm_jax.infer.request import Request

PLAN = json.dumps({"state": "initial_plan", "plan": ["reach for the puck", "lift it"]})
SETTINGS = PlannerSettings(seconds=5.0, text_length=24, hold_steps=3)


def execution(decision, caption="lift it", detail=""):
    current = {"available": True, "caption": caption, "progress_percent": 10}
    fields = {"state": "ongoing", "task_progress_percent": 5, "predictions": [current, {"available": False}]}
    return json.dumps(fields | {"execution_decision": decision, "decision_detail": detail})


@pytest.fixture
def request_(observe):
    return Request(observe(0), "tidy up", ("reach",))


def ask(answer, request, **changes):
    """The guarded answer of a planner that answers so."""
    settings = PlannerSettings(**{"seconds": 5.0, "text_length": 24, "hold_steps": 3, **changes})
    return GuardedPlanner(lambda asked: answer, settings, 20.0).ask(request)


def test_answers_pass(request_):
    """A plan's first caption and the one that Continue goes on with are performed; other decisions perform nothing.
    The planner sees the request itself."""
    assert ask(PLAN, request_).caption == "reach for the puck"
    assert ask(execution("Continue"), request_).caption == "lift it"
    takeover = ask(execution("Takeover", detail="it is stuck"), request_)
    assert takeover.caption is None and takeover.state.decision == "Takeover"
    assert takeover.failure is None and takeover.hold is None
    found = []
    GuardedPlanner(lambda asked: found.append(asked) or PLAN, SETTINGS, 20.0).ask(request_)
    assert found == [request_]


@pytest.mark.parametrize(
    "answer, name, changes",
    [
        ("no JSON", module.PLANNER_SCHEMA, {}),
        ("[" * 100_000, module.PLANNER_SCHEMA, {}),
        ('{"state": "initial_plan"}', module.PLANNER_SCHEMA, {}),
        (json.dumps({"state": "initial_plan", "plan": [" "]}), module.PLANNER_SCHEMA, {}),
        (execution("Continue", caption=""), module.PLANNER_SCHEMA, {}),
        (execution("Dance"), module.PLANNER_SCHEMA, {}),
        (None, module.PLANNER_SCHEMA, {}),
        (PLAN, module.UNKNOWN_CAPTION, {"captions": frozenset({"lift it"})}),
        (execution("Continue", caption="lift the red puck at once"), module.LONG_CAPTION, {}),
    ],
)
def test_senseless_answers_become_a_hold(answer, name, changes, request_):
    """Each is named, and the robot's own pose, repeated, stands in for a plan."""
    found = ask(answer, request_, **changes)
    assert found.failure.name == name and found.state is None and found.caption is None
    np.testing.assert_array_equal(found.hold.actions, np.tile(request_.observation.state, (3, 1)))
    assert found.hold.control_hz == 20.0 and found.hold.step_mask.all()


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit(1), KeyboardInterrupt()])
def test_an_error_is_named(error, request_):
    """Whatever the planner raises is caught, and the next question is asked as if nothing had been."""
    calls = []

    def planner(asked):
        calls.append(asked)
        if len(calls) == 1:
            raise error
        return PLAN

    guarded = GuardedPlanner(planner, SETTINGS, 20.0)
    found = guarded.ask(request_)
    assert found.failure.name == module.PLANNER_ERROR and type(error).__name__ in found.failure.detail
    assert found.hold is not None and guarded.ask(request_).caption == "reach for the puck"


def test_a_hanging_planner_is_not_waited_for(request_):
    """The answer comes at the time limit; while the planner hangs it is not asked again; its late answer is dropped."""
    release, calls = threading.Event(), []

    def planner(asked):
        calls.append(asked)
        if len(calls) == 1:
            release.wait(30)
            return execution("Continue", caption="too late")
        return PLAN

    guarded = GuardedPlanner(planner, PlannerSettings(seconds=0.05, text_length=24), 20.0)
    started = time.monotonic()
    found = guarded.ask(request_)
    assert found.failure.name == module.PLANNER_TIMEOUT and time.monotonic() - started < 10 and found.hold is not None
    assert guarded.ask(request_).failure.name == module.PLANNER_BUSY and len(calls) == 1
    release.set()
    guarded._thread.join(10)
    guarded._settings = SETTINGS  # enough time for a loaded machine
    assert guarded.ask(request_).caption == "reach for the puck"
