"""Composed and unseen programs: feasible, never the held-out ones, and put into words in their order."""

import itertools
import json

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate import composition, plans, programs


def generator(seed):
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


def test_every_named_program_is_feasible():
    """The state machine accepts what the expert is known to do."""
    for item in (*programs.RECORDED_PROGRAMS, *programs.UNSEEN_PROGRAMS):
        assert composition.feasible(item.tasks), item.name


@pytest.mark.parametrize(
    "tasks",
    [
        ("open", "open"),
        ("close", "close"),
        ("close", "red>drawer"),
        ("red>mat", "blue>mat"),
        ("red>mat", "red>mat"),
        ("red>drawer", "red>mat"),
        ("red>drawer", "blue>drawer"),
        ("red>drawer", "close", "open", "red>mat"),
    ],
)
def test_what_the_table_does_not_allow_is_refused(tasks):
    """An open drawer can't be opened, mat and drawer hold one puck, and a drawer gives none back."""
    assert not composition.feasible(tasks)


def test_feasibility_depends_on_the_table_it_starts_from():
    """The same tasks can be possible at one table and not at another; an unknown task is an error, not infeasible."""
    assert composition.feasible(["red>drawer"], composition.Table(composition.OPEN))
    assert not composition.feasible(["red>drawer"], composition.Table(composition.HALF))
    assert not composition.feasible(["red>mat"], composition.Table(composition.CLOSED, ("table", "mat")))
    with pytest.raises(InputError, match="task"):
        composition.feasible(["juggle"])


def test_unseen_programs_are_unseen():
    """No recorded program has their tasks in that order; half of them share no pair of adjacent tasks with one."""
    recorded = {item.tasks for item in programs.RECORDED_PROGRAMS}
    pairs = {pair for tasks in recorded for pair in itertools.pairwise(tasks)}
    unseen = programs.UNSEEN_PROGRAMS
    assert len(unseen) == 8 and len({item.tasks for item in unseen}) == 8
    assert all(3 <= len(item.tasks) <= 6 and item.tasks not in recorded for item in unseen)
    assert sum(pairs.isdisjoint(itertools.pairwise(item.tasks)) for item in unseen) >= 4


def test_composed_programs_are_feasible_varied_and_never_unseen():
    """500 draws: all feasible, of the length asked for, none holds an unseen program, most of them different."""
    unseen = {item.tasks for item in programs.UNSEEN_PROGRAMS}
    drawn = [composition.compose(generator(seed), 1 + seed % 6) for seed in range(500)]
    for seed, item in enumerate(drawn):
        assert len(item.tasks) == 1 + seed % 6 and composition.feasible(item.tasks)
        runs = {item.tasks[a:b] for a, b in itertools.combinations(range(len(item.tasks) + 1), 2)}
        assert unseen.isdisjoint(runs)
    assert len({item.tasks for item in drawn}) > 200 and {task for item in drawn for task in item.tasks} == {
        *programs.TASKS
    }
    assert composition.compose(generator(3), 4) == composition.compose(generator(3), 4)
    with pytest.raises(InputError, match="composed program"):
        composition.compose(generator(0), 0)


def test_an_instruction_says_every_task_in_its_order():
    """Objects and targets are named in the order of the tasks, and wordings vary."""
    tasks = ("open", "red>mat", "press", "blue>drawer")
    texts = {composition.instruction(tasks, generator(seed)) for seed in range(30)}
    assert len(texts) > 25
    for text in texts:
        places = [text.index(word) for word in ("drawer", "red puck", "mat", "button", "blue puck")]
        assert places == sorted(places) and text.endswith("in the drawer") | text.endswith("into the drawer")


def test_a_text_plan_is_a_function_of_its_seed_and_row():
    """Row i is the same whatever the count; the file's lines hold the same plans with captions that name the events."""
    rows = plans.text_plan(20, 5)
    assert rows[:7] == plans.text_plan(7, 5) and rows != plans.text_plan(20, 6)
    lines = [json.loads(line) for line in plans.text_plan_lines(20, 5).splitlines()]
    for (instruction, primitives), line in zip(rows, lines, strict=True):
        assert line["instruction"] == instruction
        assert [programs.named_primitive(event["caption"]) for event in line["events"]] == list(primitives)
        assert [event["verb"] for event in line["events"]] == [primitive.verb for primitive in primitives]
    with pytest.raises(InputError, match="plans"):
        plans.text_plan(-1, 0)


def test_a_caption_names_one_event():
    """Every paraphrase of every event leads back to that event; other words lead nowhere."""
    for task in programs.TASKS:
        for primitive in programs.task_primitives(task):
            assert {programs.named_primitive(row) for row in programs.paraphrases(primitive)} == {primitive}
    assert programs.named_primitive("juggle the pucks") is None
