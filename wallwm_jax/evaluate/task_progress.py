"""Task Progress, 0 to 100: points for what an episode's tasks have come to, by a rubric that stands in a file.

Tasks weigh alike. Of a task's 100 points some are given for each event that the scene itself shows as done when it
ended, and some for the task's goal, judged at the last moment at which it has to hold.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate.programs import TASKS, Primitive, task_primitives


@dataclasses.dataclass(frozen=True)
class TaskRule:
    """Points of one kind of task; they add up to 100."""

    events: Mapping[str, float]
    """By verb."""
    goal_event: str
    """The verb whose outcome is the task's goal."""
    goal_lasts: bool
    """Whether the goal is a state that can be looked at later (a pressed button springs back)."""
    goal_points: float


@dataclasses.dataclass(frozen=True)
class TaskOutcome:
    """What became of one task."""

    task: str
    completed: tuple[bool, ...]
    """Of each of its events, in order; False for one that was never begun."""
    reached: bool
    """Whether its goal state held when its last event ended."""
    kept: bool
    """Whether it held at the end of the episode; as `reached` if a later task changes the same object or the goal
    does not last."""


@dataclasses.dataclass(frozen=True)
class Rubric:
    """Rules by kind of task: "put", "open", "close" and "press"."""

    name: str
    version: int
    rules: Mapping[str, TaskRule]
    source: Mapping[str, Any]
    """The file's content."""

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Rubric":
        """Reads and checks a rubric file; raises InputError naming what is missing, unknown or wrong."""
        path = pathlib.Path(path)
        values = read_json(path, ("name", "version", "tasks"))
        kinds = {kind(task) for task in TASKS}
        if set(values["tasks"]) != kinds:
            raise InputError(f"{path}: tasks", sorted(values["tasks"]), sorted(kinds))
        rules = {name: _rule(f"{path}: tasks.{name}", name, rule) for name, rule in values["tasks"].items()}
        return cls(values["name"], values["version"], rules, values)

    def goal(self, task: str) -> Primitive:
        """The event of a task whose outcome is the task's goal."""
        verb = self.rules[kind(task)].goal_event
        return next(primitive for primitive in task_primitives(task) if primitive.verb == verb)

    def lasts(self, tasks: Sequence[str], place: int) -> bool:
        """Whether the goal of the task at `place` has to hold until the end: a state that no later task changes."""
        later = {_subject(task) for task in tasks[place + 1 :]}
        return self.rules[kind(tasks[place])].goal_lasts and _subject(tasks[place]) not in later

    def task_points(self, outcome: TaskOutcome) -> float:
        """Points of one task, 0 to 100."""
        rule = self.rules[kind(outcome.task)]
        verbs = [primitive.verb for primitive in task_primitives(outcome.task)]
        points = sum(rule.events[verb] for verb, done in zip(verbs, outcome.completed, strict=True) if done)
        return points + rule.goal_points * outcome.kept

    def progress(self, outcomes: Sequence[TaskOutcome]) -> float:
        """Task Progress of an episode: the mean of its tasks' points.

        Raises:
            InputError: there is no task.
        """
        if not outcomes:
            raise InputError("tasks of an episode", "none", "at least one")
        return sum(map(self.task_points, outcomes)) / len(outcomes)


def succeeded(outcomes: Sequence[TaskOutcome]) -> bool:
    """Whether every task's goal state was reached when the task ended."""
    return all(outcome.reached for outcome in outcomes)


def kind(task: str) -> str:
    """The rubric's name of a task: "put" for all that put a puck somewhere."""
    return "put" if ">" in task else task


def _subject(task: str) -> str:
    """The object whose state a task changes."""
    return task.partition(">")[0] if ">" in task else "button" if task == "press" else "drawer"


def _rule(field: str, name: str, values: Any) -> TaskRule:
    """Raises InputError unless the events are those of the task, the points are no less than 0 and add up to 100."""
    check_fields(field, values, ("events", "goal"))
    check_fields(f"{field}.goal", values["goal"], ("event", "lasts", "points"))
    task = next(task for task in TASKS if kind(task) == name)
    verbs = [primitive.verb for primitive in task_primitives(task)]
    events, goal = values["events"], values["goal"]
    check_fields(f"{field}.events", events, tuple(verbs))
    if goal["event"] not in verbs:
        raise InputError(f"{field}.goal.event", goal["event"], f"one of {verbs}")
    if not isinstance(goal["lasts"], bool):
        raise InputError(f"{field}.goal.lasts", goal["lasts"], "true or false")
    points = {**{f"events.{verb}": value for verb, value in events.items()}, "goal.points": goal["points"]}
    for part, value in points.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise InputError(f"{field}.{part}", value, "0 or more points")
    if abs(sum(points.values()) - 100) > 1e-9:
        raise InputError(f"{field}: points", sum(points.values()), "100 in all")
    return TaskRule(events, goal["event"], goal["lasts"], goal["points"])


def read_json(path: pathlib.Path, fields: Sequence[str]) -> dict[str, Any]:
    """The object in a JSON file; raises InputError if it can't be read or has other fields than these."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), error, "a readable JSON file") from error
    check_fields(str(path), values, fields)
    return values


def check_fields(field: str, values: Any, expected: Sequence[str]) -> None:
    """Raises InputError unless `values` is an object with just these fields."""
    if not isinstance(values, dict) or set(values) != set(expected):
        found = sorted(values) if isinstance(values, dict) else values
        raise InputError(field, found, f"the fields {sorted(expected)}")
