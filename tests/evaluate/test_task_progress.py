"""Task Progress: the rubric's file is checked, and points go where the scene says."""

import json
import pathlib

import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.task_progress import Rubric, TaskOutcome, succeeded
from wallwm_jax.simulate.programs import TASKS, Primitive, task_primitives

FILE = pathlib.Path("data_specs/protocols/tabletop_rubric.json")


@pytest.fixture(scope="module")
def rubric():
    return Rubric.load(FILE)


def outcome(task, done, reached=True, kept=True):
    verbs = [primitive.verb for primitive in task_primitives(task)]
    return TaskOutcome(task, tuple(verb in done for verb in verbs), reached, kept)


def everything(task):
    return outcome(task, {primitive.verb for primitive in task_primitives(task)})


def test_nothing_is_0_and_everything_100(rubric):
    """Of every task; tasks weigh alike, whatever the number of their events."""
    for task in TASKS:
        assert rubric.progress([everything(task)]) == 100
        assert rubric.progress([outcome(task, set(), False, False)]) == 0
    assert rubric.progress([everything("press"), outcome("red>mat", set(), False, False)]) == 50


def test_partial_credit_is_the_files(rubric):
    """A puck reached and grasped counts 30 of its task's 100, a goal that was lost again counts no goal points."""
    assert rubric.progress([outcome("red>mat", {"reach", "grasp"}, False, False)]) == 30
    assert rubric.progress([outcome("open", {"reach", "open", "retreat"}, True, False)]) == 80


def test_a_goal_has_to_last_until_a_later_task_changes_its_object(rubric):
    """Red's place on the mat need not outlast red's next task; a button press is over when it is over."""
    tasks = ("red>mat", "press", "open", "red>drawer", "blue>mat", "close")
    assert [rubric.lasts(tasks, place) for place in range(6)] == [False, False, False, True, True, True]
    assert rubric.goal("red>drawer") == Primitive("place", "red puck", "drawer")
    assert rubric.goal("close") == Primitive("close", "drawer")


def test_success_needs_every_goal_when_its_task_ended():
    """A missed event on the way does not matter, a missed goal does; what happened later does not."""
    assert succeeded([outcome("press", {"press"}), outcome("open", {"open"}, True, False)])
    assert not succeeded([everything("press"), outcome("open", {"reach"}, False, False)])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v["tasks"].pop("press"), "tasks"),
        (lambda v: v.pop("version"), "version"),
        (lambda v: v["tasks"]["put"]["events"].pop("lift"), "tasks.put.events"),
        (lambda v: v["tasks"]["put"]["events"].update(juggle=0), "tasks.put.events"),
        (lambda v: v["tasks"]["put"]["events"].update(lift=11), "tasks.put: points"),
        (lambda v: v["tasks"]["open"]["events"].update(open=-60, reach=140), "tasks.open.events.open"),
        (lambda v: v["tasks"]["open"]["events"].update(open="many"), "tasks.open.events.open"),
        (lambda v: v["tasks"]["open"]["goal"].update(event="press"), "tasks.open.goal.event"),
        (lambda v: v["tasks"]["open"]["goal"].update(lasts="yes"), "tasks.open.goal.lasts"),
        (lambda v: v["tasks"]["open"].update(goal=3), "tasks.open.goal"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(tmp_path, change, field):
    values = json.loads(FILE.read_text())
    change(values)
    (tmp_path / "rubric.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=field):
        Rubric.load(tmp_path / "rubric.json")


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "nowhere.json"):
        with pytest.raises(InputError, match=name):
            Rubric.load(tmp_path / name)
