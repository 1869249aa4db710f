"""Task programs: sequences of tasks, the events that each task needs, and the captions that name them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from wallwm_jax.core.errors import InputError

VERBS = ("reach", "grasp", "lift", "move", "place", "release", "retreat", "open", "close", "press")

Target = str | None


@dataclasses.dataclass(frozen=True)
class Primitive:
    """One event to perform. `target` says where a move or place goes: "mat" or "drawer"."""

    verb: str
    object: str
    target: Target = None


@dataclasses.dataclass(frozen=True)
class Program:
    """A named sequence of tasks: "open", "close", "press", "red>mat", "red>drawer", "blue>mat", "blue>drawer".

    `skipped`: events at the beginning that are performed before the episode starts, the last of them with a disturbed
    end: the recovery mixture of WALL-WM section 2, step 8.
    """

    name: str
    caption: str
    tasks: tuple[str, ...]
    skipped: int = 0

    @property
    def initial_opening(self) -> tuple[float, float]:
        """Least and greatest opening of the drawer at the start, metres: nearly closed unless its first use needs it
        open, and then far enough for a puck if one goes in before anything else happens to it."""
        uses = [task for task in self.tasks if task in ("open", "close") or task.endswith(">drawer")]
        if not uses or uses[0] == "open":
            return 0.0, 0.05
        return (0.07, 0.155) if uses[0] == "close" else (0.145, 0.155)

    @property
    def primitives(self) -> tuple[Primitive, ...]:
        """The events of an episode, in order."""
        return self._all[self.skipped :]

    @property
    def beforehand(self) -> tuple[Primitive, ...]:
        """The events that are over when the episode starts."""
        return self._all[: self.skipped]

    @property
    def _all(self) -> tuple[Primitive, ...]:
        return tuple(primitive for task in self.tasks for primitive in task_primitives(task))


COLOURS, TARGETS = ("red", "blue"), ("mat", "drawer")
TASKS = ("open", "close", "press", *(f"{colour}>{target}" for colour in COLOURS for target in TARGETS))


def task_primitives(task: str) -> list[Primitive]:
    """The events of one task, in order.

    Raises:
        InputError: it is none of TASKS.
    """
    if task not in TASKS:
        raise InputError("task", task, f"one of {TASKS}")
    if task in ("open", "close"):
        return [Primitive("reach", "drawer handle"), Primitive(task, "drawer"), Primitive("retreat", "drawer handle")]
    if task == "press":
        return [Primitive("reach", "button"), Primitive("press", "button"), Primitive("retreat", "button")]
    colour, _, target = task.partition(">")
    puck = f"{colour} puck"
    return [
        Primitive("reach", puck),
        Primitive("grasp", puck),
        Primitive("lift", puck),
        Primitive("move", puck, target),
        Primitive("place", puck, target),
        Primitive("release", puck),
        Primitive("retreat", puck),
    ]


_LONG = (
    (
        "tidy_red",
        "open the drawer, put the red puck in it, close it and press the button",
        ("open", "red>drawer", "close", "press"),
    ),
    (
        "tidy_blue",
        "press the button, open the drawer, put the blue puck in it and close it",
        ("press", "open", "blue>drawer", "close"),
    ),
    (
        "sort_red_first",
        "put the red puck on the mat, then open the drawer and put the blue puck in it",
        ("red>mat", "open", "blue>drawer"),
    ),
    (
        "sort_blue_first",
        "put the blue puck on the mat, open the drawer, put the red puck in it and close it",
        ("blue>mat", "open", "red>drawer", "close"),
    ),
    (
        "close_press_red",
        "close the drawer, press the button, put the red puck on the mat and open the drawer",
        ("close", "press", "red>mat", "open"),
    ),
    (
        "open_press_blue",
        "open the drawer, press the button, put the blue puck on the mat and close the drawer",
        ("open", "press", "blue>mat", "close"),
    ),
    (
        "clear_table",
        "put the blue puck in the open drawer, the red puck on the mat and close the drawer",
        ("blue>drawer", "red>mat", "close"),
    ),
    (
        "red_drawer_blue_mat",
        "put the red puck in the open drawer, press the button and put the blue puck on the mat",
        ("red>drawer", "press", "blue>mat"),
    ),
)

_SHORT = (
    ("open_only", "open the drawer", ("open",)),
    ("close_only", "close the drawer", ("close",)),
    ("press_only", "press the button", ("press",)),
    ("red_to_mat", "put the red puck on the mat", ("red>mat",)),
    ("blue_to_mat", "put the blue puck on the mat", ("blue>mat",)),
    ("red_to_drawer", "put the red puck in the open drawer", ("red>drawer",)),
    ("blue_to_drawer", "put the blue puck in the open drawer", ("blue>drawer",)),
    ("close_then_press", "close the drawer and press the button", ("close", "press")),
)

# Places of pucks are what takes most examples to learn. Here each scene shows three: where both pucks stood at first,
# and the mat, from which one is fetched again.
_TOUR = (
    (
        "red_by_mat_press",
        "put the red puck on the mat, press the button, open the drawer, put the red puck in it, put the blue puck on "
        "the mat and close the drawer",
        ("red>mat", "press", "open", "red>drawer", "blue>mat", "close"),
    ),
    (
        "blue_by_mat_press",
        "put the blue puck on the mat, open the drawer, put the blue puck in it and the red puck on the mat, close the "
        "drawer and press the button",
        ("blue>mat", "open", "blue>drawer", "red>mat", "close", "press"),
    ),
    (
        "press_red_by_mat",
        "press the button, put the red puck on the mat, open the drawer, put the red puck in it, close it and put the "
        "blue puck on the mat",
        ("press", "red>mat", "open", "red>drawer", "close", "blue>mat"),
    ),
    (
        "close_blue_by_mat",
        "close the drawer, put the blue puck on the mat, press the button, open the drawer, put the blue puck in it "
        "and the red puck on the mat",
        ("close", "blue>mat", "press", "open", "blue>drawer", "red>mat"),
    ),
    (
        "red_by_mat_open_drawer",
        "put the red puck on the mat and then in the open drawer, press the button, put the blue puck on the mat and "
        "close the drawer",
        ("red>mat", "red>drawer", "press", "blue>mat", "close"),
    ),
    (
        "open_press_blue_by_mat",
        "open the drawer, press the button, put the blue puck on the mat and then in the drawer, put the red puck on "
        "the mat and close the drawer",
        ("open", "press", "blue>mat", "blue>drawer", "red>mat", "close"),
    ),
    (
        "close_open_red_by_mat",
        "close the drawer, open it again, put the red puck on the mat and then in the drawer, put the blue puck on the "
        "mat and press the button",
        ("close", "open", "red>mat", "red>drawer", "blue>mat", "press"),
    ),
    (
        "press_blue_by_mat_open_drawer",
        "put the blue puck on the mat, press the button, put the blue puck in the open drawer, close it and put the "
        "red puck on the mat",
        ("blue>mat", "press", "blue>drawer", "close", "red>mat"),
    ),
)

# No recorded program has these sequences of tasks, and the first four hold no two tasks in a row that one has.
_UNSEEN = (
    (
        "open_blue_mat_red_drawer",
        "open the drawer, put the blue puck on the mat and the red puck in the drawer",
        ("open", "blue>mat", "red>drawer"),
    ),
    (
        "red_mat_blue_drawer_press",
        "put the red puck on the mat, put the blue puck in the open drawer and press the button",
        ("red>mat", "blue>drawer", "press"),
    ),
    (
        "blue_drawer_press_close",
        "put the blue puck in the open drawer, press the button and close the drawer",
        ("blue>drawer", "press", "close"),
    ),
    (
        "red_mat_blue_drawer_press_close",
        "put the red puck on the mat and the blue puck in the open drawer, press the button and close the drawer",
        ("red>mat", "blue>drawer", "press", "close"),
    ),
    (
        "press_red_drawer_close_blue",
        "press the button, put the red puck in the open drawer, close it and put the blue puck on the mat",
        ("press", "red>drawer", "close", "blue>mat"),
    ),
    (
        "open_blue_press_red_close",
        "open the drawer, put the blue puck on the mat, press the button, put the red puck in the drawer and close it",
        ("open", "blue>mat", "press", "red>drawer", "close"),
    ),
    (
        "open_red_mat_blue_drawer_press_close",
        "open the drawer, put the red puck on the mat and the blue puck in the drawer, press the button and close the "
        "drawer",
        ("open", "red>mat", "blue>drawer", "press", "close"),
    ),
    (
        "close_red_mat_open_blue_drawer_press_close",
        "close the drawer, put the red puck on the mat, open the drawer, put the blue puck in it, press the button and "
        "close the drawer again",
        ("close", "red>mat", "open", "blue>drawer", "press", "close"),
    ),
)

LONG_PROGRAMS = tuple(Program(*row) for row in _LONG)
SHORT_PROGRAMS = tuple(Program(*row) for row in _SHORT)
TOUR_PROGRAMS = tuple(Program(*row) for row in _TOUR)
UNSEEN_PROGRAMS = tuple(Program(*row) for row in _UNSEEN)
RECOVERY_PROGRAMS = tuple(
    Program(f"{name}_{colour}_{target}", f"put the {colour} puck {place}", (f"{colour}>{target}",), skipped)
    for colour in COLOURS
    for target, place in (("mat", "on the mat"), ("drawer", "in the open drawer"))
    for name, skipped in (("grasp", 1), ("place", 4))
)
"""Picking and placing from the grasp on, and from the placing on."""
RECORDED_PROGRAMS = (*LONG_PROGRAMS, *SHORT_PROGRAMS, *TOUR_PROGRAMS, *RECOVERY_PROGRAMS)
"""Those that training may see; the unseen ones are for evaluation alone."""


def program(name: str) -> Program:
    """The program of that name.

    Raises:
        InputError: there is none.
    """
    rows = {item.name: item for item in (*RECORDED_PROGRAMS, *UNSEEN_PROGRAMS)}
    if name not in rows:
        raise InputError("program", name, f"one of {sorted(rows)}")
    return rows[name]


_PARAPHRASES: dict[str, Sequence[str]] = {
    "reach": (
        "reach for the {o}",
        "move the gripper to the {o}",
        "go to the {o}",
        "approach the {o}",
        "bring the hand near the {o}",
        "head over to the {o}",
    ),
    "grasp": (
        "grasp the {o}",
        "grab the {o}",
        "close the fingers on the {o}",
        "take hold of the {o}",
        "grip the {o}",
        "go down and seize the {o}",
    ),
    "lift": (
        "lift the {o}",
        "raise the {o}",
        "pick the {o} up",
        "lift up the {o}",
        "hoist the {o}",
        "raise the {o} off the surface",
    ),
    "release": (
        "release the {o}",
        "let go of the {o}",
        "open the fingers on the {o}",
        "drop the {o}",
        "free the {o}",
        "open the gripper and leave the {o}",
    ),
    "retreat": (
        "retreat from the {o}",
        "back away from the {o}",
        "withdraw from the {o}",
        "leave the {o}",
        "move the hand away from the {o}",
        "draw back from the {o}",
    ),
    "open": (
        "open the drawer",
        "pull the drawer open",
        "pull out the drawer",
        "draw the drawer out",
        "slide the drawer open",
        "tug the drawer open",
    ),
    "close": (
        "close the drawer",
        "push the drawer shut",
        "shut the drawer",
        "push the drawer in",
        "slide the drawer closed",
        "push the drawer closed",
    ),
    "press": (
        "press the button",
        "push the button",
        "push the button in",
        "hit the button",
        "press the button down",
        "press on the button",
    ),
}
_MOVE = {
    "mat": (
        "carry the {o} over to the mat",
        "move the {o} to the mat",
        "bring the {o} above the mat",
        "take the {o} across to the mat",
        "transport the {o} to the mat",
        "move the {o} over the mat",
    ),
    "drawer": (
        "carry the {o} over to the drawer",
        "move the {o} to the drawer",
        "bring the {o} above the drawer",
        "take the {o} across to the drawer",
        "transport the {o} to the drawer",
        "move the {o} over the drawer",
    ),
}
_PLACE = {
    "mat": (
        "place the {o} on the mat",
        "put the {o} down on the mat",
        "lower the {o} onto the mat",
        "set the {o} on the mat",
        "lay the {o} on the mat",
        "put the {o} on the mat",
    ),
    "drawer": (
        "place the {o} in the drawer",
        "put the {o} down in the drawer",
        "lower the {o} into the drawer",
        "set the {o} in the drawer",
        "lay the {o} inside the drawer",
        "put the {o} in the drawer",
    ),
}


def paraphrases(primitive: Primitive) -> tuple[str, ...]:
    """Every way a caption may name the event."""
    if primitive.verb in ("move", "place"):
        rows = (_MOVE if primitive.verb == "move" else _PLACE)[primitive.target]
    else:
        rows = _PARAPHRASES[primitive.verb]
    return tuple(row.format(o=primitive.object) for row in rows)


def caption(primitive: Primitive, generator: np.random.Generator) -> str:
    """One paraphrase, drawn."""
    rows = paraphrases(primitive)
    return rows[int(generator.integers(len(rows)))]


def named_primitive(caption: str) -> Primitive | None:
    """The event that a caption names: each paraphrase belongs to one event alone. None if it is no paraphrase."""
    return _BY_CAPTION.get(caption)


_BY_CAPTION = {
    row: primitive for task in TASKS for primitive in task_primitives(task) for row in paraphrases(primitive)
}
