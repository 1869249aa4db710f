"""Which sequences of tasks the tabletop allows, random ones among them, and the words that ask for them.

A state machine of the table: the drawer is closed, half open or open, and each puck is on the table, on the mat or in
the drawer. It knows nothing of where things stand in metres.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate.programs import COLOURS, TASKS, UNSEEN_PROGRAMS, Program

CLOSED, HALF, OPEN = "closed", "half", "open"
TABLE = "table"


@dataclasses.dataclass(frozen=True)
class Table:
    """The drawer's position and where each puck is: `places` is in the order of COLOURS."""

    drawer: str
    places: tuple[str, str] = (TABLE, TABLE)


def start(tasks: Sequence[str]) -> Table:
    """The table at the reset of a program of these tasks: the drawer as their first use of it needs it."""
    opening = Program("", "", tuple(tasks)).initial_opening
    return Table({(0.0, 0.05): CLOSED, (0.07, 0.155): HALF, (0.145, 0.155): OPEN}[opening])


def after(table: Table, task: str) -> Table | None:
    """The table once a task is done, or None if it can't be done.

    A closed drawer gives nothing back and an open one neither: no task takes a puck out of it. Mat and drawer hold one
    puck each.

    Raises:
        InputError: the task is none of `programs.TASKS`.
    """
    if task not in TASKS:
        raise InputError("task", task, f"one of {TASKS}")
    if task == "press":
        return table
    if task == "open":
        return dataclasses.replace(table, drawer=OPEN) if table.drawer == CLOSED else None
    if task == "close":
        return dataclasses.replace(table, drawer=CLOSED) if table.drawer != CLOSED else None
    colour, _, target = task.partition(">")
    mine = table.places[COLOURS.index(colour)]
    if target in table.places or mine == "drawer" or (target == "drawer" and table.drawer != OPEN):
        return None
    places = tuple(target if name == colour else place for name, place in zip(COLOURS, table.places, strict=True))
    return dataclasses.replace(table, places=places)


def feasible(tasks: Sequence[str], table: Table | None = None) -> bool:
    """Whether the tasks can be done one after the other.

    Args:
        table: what they start from; None is the start that a program of these tasks gets.

    Raises:
        InputError: there is an unknown task.
    """
    table = start(tasks) if table is None else table
    for task in tasks:
        following = after(table, task)
        if following is None:
            return False
        table = following
    return True


def compose(generator: np.random.Generator, length: int) -> Program:
    """A random feasible program and its instruction; it never holds the tasks of an unseen program in a row.

    Args:
        length: number of tasks, 1 to 8.

    Raises:
        InputError: the length is out of range.
    """
    if not 1 <= length <= 8:
        raise InputError("tasks of a composed program", length, "1 to 8")
    while True:
        table, tasks = Table(str(generator.choice([CLOSED, HALF, OPEN]))), []
        while len(tasks) < length:
            # The same task twice in a row (press) would show nothing new.
            choices = [task for task in TASKS if after(table, task) and tasks[-1:] != [task]]
            tasks.append(str(generator.choice(choices)))
            table = after(table, tasks[-1])
        if not any(_within(item.tasks, tasks) for item in UNSEEN_PROGRAMS):
            return Program("composed", instruction(tasks, generator), tuple(tasks))


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether `part` stands in `whole` without a gap."""
    return any(tuple(whole[at : at + len(part)]) == tuple(part) for at in range(len(whole) - len(part) + 1))


_WORDS = {
    "open": ("open the drawer", "pull the drawer open", "pull out the drawer", "slide the drawer open"),
    "close": ("close the drawer", "push the drawer shut", "shut the drawer", "slide the drawer closed"),
    "press": ("press the button", "push the button", "push the button in", "hit the button"),
    "mat": ("put the {o} on the mat", "place the {o} on the mat", "move the {o} to the mat", "set the {o} on the mat"),
    "drawer": (
        "put the {o} in the drawer",
        "place the {o} in the drawer",
        "move the {o} into the drawer",
        "set the {o} down in the drawer",
    ),
}
_CONNECTIVES, _LAST = (", ", ", then ", " and then ", ", after that "), (" and ", " and then ", ", then ")


def instruction(tasks: Sequence[str], generator: np.random.Generator) -> str:
    """The tasks in words, in their order; wordings and connectives are drawn.

    Raises:
        InputError: there is no task or an unknown one.
    """
    if not tasks:
        raise InputError("tasks of an instruction", "none", "at least one")
    text = _task_words(tasks[0], generator)
    for place, task in enumerate(tasks[1:], start=2):
        text += str(generator.choice(_LAST if place == len(tasks) else _CONNECTIVES)) + _task_words(task, generator)
    return text


def _task_words(task: str, generator: np.random.Generator) -> str:
    if task not in TASKS:
        raise InputError("task", task, f"one of {TASKS}")
    colour, _, target = task.partition(">")
    return str(generator.choice(_WORDS[target or task])).format(o=f"{colour} puck")
