"""The vision-language side as a planner: its states keep the rules, and follow what its caption head says."""

import json
from types import SimpleNamespace

import pytest

from wallwm_jax.core.planner_states import parse
from wallwm_jax.data.traces import NOTHING
from wallwm_jax.infer.reasoning import Reasoning
from wallwm_jax.infer.reasoning_sources import EventPlanner
from wallwm_jax.infer.request import Request

PLAN = ("reach for the puck", "grasp it", "lift it")


class Scripted(Reasoning):
    """A caption head that knows one plan, and the number of events that are done."""

    def __init__(self):
        self.asked = 0

    def next_events(self, requests):
        self.asked += len(requests)
        places = [len(request.memory) for request in requests]
        return [SimpleNamespace(caption=PLAN[at] if at < len(PLAN) else NOTHING, steps=9.0) for at in places]


@pytest.fixture
def ask(observe):
    planner = EventPlanner(Scripted())
    return lambda done: parse(planner(Request(observe(0), "tidy up", tuple(done))))


def test_a_new_task_is_planned_and_then_gone_through(ask):
    """First the whole plan; then the due event, the next one and the share that is done; at the end the end."""
    assert ask(()).plan == PLAN
    for done in range(3):
        state = ask(PLAN[:done])
        assert state.decision == "Continue" and state.current.caption == PLAN[done]
        assert state.task_progress_percent == round(100 * done / 3)
        assert (state.next.caption if state.next.available else None) == (PLAN[done + 1] if done < 2 else None)
    end = ask(PLAN)
    assert end.ended and end.decision == "End" and end.task_progress_percent == 100


def test_a_task_that_is_under_way_is_not_planned_anew(ask):
    """Asked for the first time when one event is done, it says where the work stands."""
    state = ask(PLAN[:1])
    assert state.current.caption == PLAN[1] and state.task_progress_percent == 33


def test_a_plan_has_an_end(observe):
    """A head that never stops gives a plan of the longest length."""
    endless = Scripted()
    endless.next_events = lambda requests: [SimpleNamespace(caption="again", steps=1.0) for _ in requests]
    answer = EventPlanner(endless, longest=5)(Request(observe(0), "tidy up"))
    assert json.loads(answer)["plan"] == ["again"] * 5
