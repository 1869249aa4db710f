"""Planner states: text and back, missing labels as spans, every rule enforced by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.planner_states import DECISIONS, Execution, InitialPlan, Unit, parse, serialise

CAPTIONS = st.text(min_size=1).filter(str.strip)
PERCENT = st.none() | st.integers(0, 100)


@st.composite
def executions(draw):
    """States that break no rule, labels missing now and then."""
    ended = draw(st.booleans())
    decision = "End" if ended else draw(st.none() | st.sampled_from(DECISIONS[:3]))
    needs_current = decision == "Continue"
    current = Unit(True, draw(st.none() | CAPTIONS), draw(PERCENT))
    current = current if needs_current or draw(st.booleans()) else Unit(False)
    following = (
        Unit(False) if ended else draw(st.builds(Unit, st.just(True), st.none() | CAPTIONS, st.sampled_from([None, 0])))
    )
    detail = draw(st.none() | (CAPTIONS if decision in ("Replan", "Takeover") else st.text()))
    return Execution(ended, draw(PERCENT), current, following, decision, detail)


@given(executions() | st.builds(InitialPlan, st.lists(CAPTIONS, min_size=1).map(tuple)))
def test_text_and_back(state):
    """A state's text parses to the state; exactly its missing labels are spans, each reading null."""
    written = serialise(state)
    assert parse(written.text, complete=False) == state
    assert all(written.text[start:end] == "null" for start, end in written.missing)
    if isinstance(state, Execution):
        labels = [state.task_progress_percent, state.decision, state.detail]
        for unit in (state.current, state.next):
            labels += [unit.caption, unit.progress_percent] if unit.available else []
        assert len(written.missing) == sum(label is None for label in labels)


def test_what_is_acted_upon_must_be_complete():
    """A missing label is refused by name when the state is to be acted upon."""
    state = Execution(False, 40, Unit(True, "lift the red puck", None), Unit(False), "Continue", "")
    with pytest.raises(InputError, match=r"predictions\[0\].progress_percent"):
        parse(serialise(state).text)


WHOLE = {
    "state": "ongoing",
    "task_progress_percent": 40,
    "predictions": [{"available": True, "caption": "lift it", "progress_percent": 50}, {"available": False}],
    "execution_decision": "Continue",
    "decision_detail": "",
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"state": "midway"}, "planner.state"),
        ({"task_progress_percent": 140}, "task_progress_percent"),
        ({"task_progress_percent": "40"}, "task_progress_percent"),
        ({"task_progress_percent": True}, "task_progress_percent"),
        ({"predictions": []}, "planner.predictions"),
        ({"predictions": [{"available": False}, {"available": False}]}, r"predictions\[0\]"),
        ({"predictions": [{"available": False, "caption": "x"}, {"available": False}]}, r"predictions\[0\]"),
        (
            {"predictions": [WHOLE["predictions"][0], {"available": True, "caption": "x", "progress_percent": 5}]},
            r"predictions\[1\].progress_percent",
        ),
        (
            {"predictions": [{"available": True, "caption": " ", "progress_percent": 5}, {"available": False}]},
            "caption",
        ),
        ({"execution_decision": "Stop"}, "execution_decision"),
        ({"execution_decision": "End"}, "execution_decision"),
        ({"state": "end"}, "execution_decision"),
        ({"execution_decision": "Replan"}, "decision_detail"),
        ({"mood": "good"}, "planner"),
    ],
)
def test_a_broken_rule_is_named(change, named):
    """One message with the field, whatever the planner answered."""
    assert parse(json.dumps(WHOLE)).current.caption == "lift it"
    with pytest.raises(InputError, match=named):
        parse(json.dumps({**WHOLE, **change}))


@pytest.mark.parametrize("text", ["", "no json", "[1, 2]", '{"state": "initial_plan", "plan": []}', '{"plan": ["a"]}'])
def test_what_is_no_state_is_refused(text):
    """Neither free text nor half a state passes."""
    with pytest.raises(InputError, match="planner"):
        parse(text)
