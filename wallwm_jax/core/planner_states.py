"""What a planner says, as structured JSON: the plan at the start, then after each look where the work stands.

    {"state": "initial_plan", "plan": ["reach for the red puck", ...]}
    {"state": "ongoing", "task_progress_percent": 40,
     "predictions": [{"available": true, "caption": "lift the red puck", "progress_percent": 50},
                     {"available": true, "caption": "carry the red puck to the mat", "progress_percent": 0}],
     "execution_decision": "Continue", "decision_detail": ""}

The form is X-Planner's (arXiv 2609.25187). A label that nobody has made is written as null and its span of the text is
reported, so that a loss leaves it out; a state that is acted upon must have all its labels.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from wallwm_jax.core.errors import InputError

DECISIONS = ("Continue", "Replan", "Takeover", "End")
"""Go on; make a new plan; hand over to a person; stop, the task is done."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """One event in a planner's words. Not `available`: there is none, and no caption or progress either.

    None for a caption or a progress that is available but has no label.
    """

    available: bool
    caption: str | None = None
    progress_percent: int | None = None


@dataclasses.dataclass(frozen=True)
class InitialPlan:
    """The captions of all events of the task, in order."""

    plan: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where the work stands. None for a label that is missing; `ended` is the state "end", otherwise "ongoing"."""

    ended: bool
    task_progress_percent: int | None
    current: Unit
    next: Unit
    decision: str | None
    detail: str | None = ""


State = InitialPlan | Execution


@dataclasses.dataclass(frozen=True)
class Serialised:
    """A state as text. `missing` are the half-open character spans that hold no label."""

    text: str
    missing: tuple[tuple[int, int], ...]


def serialise(state: State) -> Serialised:
    """The state's one text; raises InputError for a state that breaks a rule."""
    check(state)
    if isinstance(state, InitialPlan):
        return Serialised(json.dumps({"state": "initial_plan", "plan": list(state.plan)}), ())
    fields = {
        "state": "end" if state.ended else "ongoing",
        "task_progress_percent": state.task_progress_percent,
        "predictions": [_unit_fields(state.current), _unit_fields(state.next)],
        "execution_decision": state.decision,
        "decision_detail": state.detail,
    }
    text, missing = "", []
    for chunk in json.JSONEncoder().iterencode(fields):
        # The encoder yields a dict's values one by one; a caption that reads "null" has quotes.
        if chunk == "null":
            missing.append((len(text), len(text) + len(chunk)))
        text += chunk
    return Serialised(text, tuple(missing))


def _unit_fields(unit: Unit) -> dict[str, Any]:
    if not unit.available:
        return {"available": False}
    return {"available": True, "caption": unit.caption, "progress_percent": unit.progress_percent}


def parse(text: str, complete: bool = True) -> State:
    """The state that a text holds.

    Args:
        text: what a planner answered.
        complete: also refuse missing labels, for a state that will be acted upon.

    Raises:
        InputError: no JSON, an unknown or missing field, a wrong type, a broken rule; it names the field.
    """
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError("planner", f"{_short(text)} ({error})", "one JSON object") from error
    if not isinstance(fields, dict):
        raise InputError("planner", _short(text), "one JSON object")
    kind = fields.get("state")
    if kind == "initial_plan":
        _keys("planner", fields, ("state", "plan"))
        plan = fields["plan"]
        if not isinstance(plan, list) or not all(isinstance(item, str) for item in plan):
            raise InputError("planner.plan", _short(plan), "a list of captions")
        state = InitialPlan(tuple(plan))
    elif kind in ("ongoing", "end"):
        state = _execution(kind, fields)
    else:
        raise InputError("planner.state", _short(kind), "'initial_plan', 'ongoing' or 'end'")
    check(state, complete)
    return state


def _execution(kind: str, fields: Mapping[str, Any]) -> Execution:
    names = ("state", "task_progress_percent", "predictions", "execution_decision", "decision_detail")
    _keys("planner", fields, names)
    predictions = fields["predictions"]
    if not isinstance(predictions, list) or len(predictions) != 2:
        raise InputError("planner.predictions", _short(predictions), "two units: current and next")
    current, following = (_unit(f"planner.predictions[{place}]", unit) for place, unit in enumerate(predictions))
    return Execution(
        kind == "end",
        _typed("planner.task_progress_percent", fields["task_progress_percent"], int),
        current,
        following,
        _typed("planner.execution_decision", fields["execution_decision"], str),
        _typed("planner.decision_detail", fields["decision_detail"], str),
    )


def _unit(name: str, fields: Any) -> Unit:
    if not isinstance(fields, dict) or not isinstance(fields.get("available"), bool):
        raise InputError(name, _short(fields), "{'available': true or false, ...}")
    if not fields["available"]:
        _keys(name, fields, ("available",))
        return Unit(False)
    _keys(name, fields, ("available", "caption", "progress_percent"))
    caption = _typed(f"{name}.caption", fields["caption"], str)
    return Unit(True, caption, _typed(f"{name}.progress_percent", fields["progress_percent"], int))


def _keys(name: str, fields: Mapping[str, Any], expected: tuple[str, ...]) -> None:
    if set(fields) != set(expected):
        raise InputError(name, f"the fields {sorted(fields)}", f"{sorted(expected)}")


def _typed(name: str, value: Any, kind: type) -> Any:
    if value is not None and type(value) is not kind:
        raise InputError(name, _short(value), f"{kind.__name__} or null")
    return value


def check(state: State, complete: bool = False) -> None:
    """Raises InputError, naming the field, for a state that breaks a rule:

    - a plan has at least one caption, and no caption is empty;
    - percentages are 0 to 100; the next event's is 0;
    - "end" goes with the decision End and nothing to come; the decision End goes with "end" alone;
    - Continue needs a current event; Replan and Takeover say why in the detail.
    """
    if isinstance(state, InitialPlan):
        if not state.plan:
            raise InputError("planner.plan", "no caption", "at least one")
        for place, caption in enumerate(state.plan):
            _check_caption(f"planner.plan[{place}]", caption)
        return
    _check_percent("planner.task_progress_percent", state.task_progress_percent)
    for place, unit in enumerate((state.current, state.next)):
        _check_unit(f"planner.predictions[{place}]", unit, complete)
    if state.next.progress_percent not in (None, 0):
        raise InputError("planner.predictions[1].progress_percent", state.next.progress_percent, "0: it has not begun")
    _check_decision(state)
    for name in ("task_progress_percent", "decision", "detail"):
        if complete and getattr(state, name) is None:
            raise InputError(f"planner.{name}", None, "a value")


def _check_decision(state: Execution) -> None:
    decision = state.decision
    if decision is not None and decision not in DECISIONS:
        raise InputError("planner.execution_decision", repr(decision), f"one of {DECISIONS}")
    if decision is not None and (decision == "End") != state.ended:
        raise InputError("planner.execution_decision", decision, "End in the state 'end', and there alone")
    if state.ended and state.next.available:
        raise InputError("planner.predictions[1]", "a next event", "none after the end")
    if decision == "Continue" and not state.current.available:
        raise InputError("planner.predictions[0]", "no current event", "one to continue with")
    if decision in ("Replan", "Takeover") and state.detail is not None and not state.detail.strip():
        raise InputError("planner.decision_detail", "nothing", f"the reason for {decision}")


def _check_unit(name: str, unit: Unit, complete: bool) -> None:
    if not unit.available:
        if unit.caption is not None or unit.progress_percent is not None:
            raise InputError(name, "a caption or progress of no event", "neither where 'available' is false")
        return
    if unit.caption is not None:
        _check_caption(f"{name}.caption", unit.caption)
    _check_percent(f"{name}.progress_percent", unit.progress_percent)
    for field in ("caption", "progress_percent"):
        if complete and getattr(unit, field) is None:
            raise InputError(f"{name}.{field}", None, "a value")


def _check_caption(name: str, caption: str) -> None:
    if not caption.strip():
        raise InputError(name, repr(caption), "words")


def _check_percent(name: str, percent: int | None) -> None:
    if percent is not None and not 0 <= percent <= 100:
        raise InputError(name, percent, "0 to 100")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
