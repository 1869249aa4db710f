"""A closed-loop protocol: everything that two results must share to be comparable, in one versioned file.

Seeds, cameras, control rate, step limits, wording, the limits at the robot's boundary and the cells of the result (one
kind of episode each). A result keeps its protocol's text word for word.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.task_progress import Rubric, check_fields, read_json
from wallwm_jax.simulate import composition, programs
from wallwm_jax.simulate.recorder import PLANS

KINDS = ("in distribution", "unseen", "switched")
OWN, COMPOSED = "own", "composed"
PARAPHRASED, FIRST = "paraphrased", "first"
_NUMBERS = ("image_size", "event_steps", "episode_steps", "longest_plan", "control_hz", "act_seconds")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What may be sent to the robot: bounds of each commanded number, in the embodiment's action order (positions
    first: x, y, z in metres, world frame), and the speed of the commanded position."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    metres_per_second: float


@dataclasses.dataclass(frozen=True)
class Part:
    """Tasks under one instruction."""

    instruction: str
    tasks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode of a cell: `start` says how the scene is reset, `parts` what is asked for, one after the other."""

    seed: int
    name: str
    start: programs.Program
    parts: tuple[Part, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for part in self.parts for task in part.tasks)

    def instruction(self, task: int) -> str:
        """What holds while the task of that number is due."""
        return next(part.instruction for place, part in self._ends() if task < place)

    def _ends(self) -> list[tuple[int, Part]]:
        ends = np.cumsum([len(part.tasks) for part in self.parts])
        return list(zip(ends.tolist(), self.parts, strict=True))


@dataclasses.dataclass(frozen=True)
class Switch:
    """After `after` tasks of `program` the instruction changes to the tasks of `then` from its number `first` on."""

    program: str
    after: int
    then: str
    first: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of episode: its programs or switches are taken in turn, its seeds count up from `first_seed`."""

    name: str
    kind: str
    episodes: int
    first_seed: int
    programs: tuple[str, ...] = ()
    switches: tuple[Switch, ...] = ()


@dataclasses.dataclass(frozen=True)
class ClosedLoopProtocol:
    """A checked protocol file. Attributes are the file's fields.

    Attributes:
      event_steps, episode_steps: control steps after which an event has failed, and an episode is over.
      act_seconds: wall-clock seconds of one call of a controller (for all scenes at once).
      replan_every: control steps after which a controller that can observe again inside an event does; None: never.
      longest_plan: commands of one plan at most.
      captions: "paraphrased" (drawn by the episode's seed) or "first" (of each event's paraphrases).
      instructions: "own" (the program's) or "composed" (drawn by the episode's seed).
    """

    name: str
    version: int
    rubric: Rubric
    views: tuple[str, ...]
    image_size: int
    control_hz: float
    event_steps: int
    episode_steps: int
    act_seconds: float
    replan_every: int | None
    longest_plan: int
    captions: str
    instructions: str
    limits: Limits
    cells: tuple[Cell, ...]
    source: Mapping[str, Any]
    """The file's content, word for word."""

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "ClosedLoopProtocol":
        """Reads and checks a protocol and its rubric (a path beside it); raises InputError naming what is wrong."""
        path = pathlib.Path(path)
        fields = tuple(field.name for field in dataclasses.fields(cls) if field.name != "source")
        source = read_json(path, fields)
        _check_values(str(path), source)
        cells = tuple(_cell(f"{path}: cells[{place}]", cell) for place, cell in enumerate(source["cells"]))
        if not cells or len({cell.name for cell in cells}) < len(cells):
            raise InputError(f"{path}: cells", [cell.name for cell in cells], "at least one, each with its own name")
        _check_seeds(str(path), cells)
        rubric, limits = Rubric.load(path.parent / source["rubric"]), _limits(f"{path}: limits", source["limits"])
        read = {"rubric": rubric, "limits": limits, "cells": cells, "views": tuple(source["views"])}
        return cls(**source | read, source=source)

    def cell(self, name: str) -> Cell:
        """The cell of that name; raises InputError if there is none."""
        cells = {cell.name: cell for cell in self.cells}
        if name not in cells:
            raise InputError(f"cell of protocol {self.name}", name, f"one of {sorted(cells)}")
        return cells[name]

    def episodes(self, cell: Cell, count: int | None = None) -> list[Episode]:
        """The first `count` episodes of a cell; None takes all. The same seeds always mean the same words.

        Raises:
            InputError: the cell has fewer.
        """
        count = cell.episodes if count is None else count
        if not 0 <= count <= cell.episodes:
            raise InputError(f"episodes of cell {cell.name!r}", count, f"0 to {cell.episodes}")
        return [self._episode(cell, number) for number in range(count)]

    def _episode(self, cell: Cell, number: int) -> Episode:
        seed = cell.first_seed + number
        generator = np.random.Generator(np.random.Philox(key=[seed, 3]))
        if cell.switches:
            switch = cell.switches[number % len(cell.switches)]
            start, then = programs.program(switch.program), programs.program(switch.then)
            kept, rest = start.tasks[: switch.after], then.tasks[switch.first :]
            # No program's own words ask for a part of its tasks.
            second = self._words(then, generator) if not switch.first else composition.instruction(rest, generator)
            parts = (Part(self._words(start, generator), kept), Part(second, rest))
            return Episode(seed, f"{start.name}, then {then.name}", start, parts)
        start = programs.program(cell.programs[number % len(cell.programs)])
        return Episode(seed, start.name, start, (Part(self._words(start, generator), start.tasks),))

    def _words(self, program: programs.Program, generator: np.random.Generator) -> str:
        return program.caption if self.instructions == OWN else composition.instruction(program.tasks, generator)


def _check_values(path: str, source: Mapping[str, Any]) -> None:
    for field in _NUMBERS:
        _check_number(f"{path}: {field}", source[field])
    if source["replan_every"] is not None:
        _check_number(f"{path}: replan_every", source["replan_every"])
    for field, choices in (("captions", (PARAPHRASED, FIRST)), ("instructions", (OWN, COMPOSED))):
        if source[field] not in choices:
            raise InputError(f"{path}: {field}", source[field], f"one of {choices}")
    if not source["views"]:
        raise InputError(f"{path}: views", source["views"], "at least one")


def _check_number(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(field, value, "a number over 0")


def _limits(field: str, values: Any) -> Limits:
    check_fields(field, values, ("low", "high", "metres_per_second"))
    _check_number(f"{field}.metres_per_second", values["metres_per_second"])
    low, high = values["low"], values["high"]
    if len(low) != len(high) or len(low) < 3 or not all(a < b for a, b in zip(low, high, strict=True)):
        raise InputError(field, f"low {low}, high {high}", "as many numbers each, x y z first, low under high")
    return Limits(tuple(low), tuple(high), values["metres_per_second"])


def _cell(field: str, values: Any) -> Cell:
    """A checked cell: its programs exist and its switches can be done."""
    switched = isinstance(values, dict) and values.get("kind") == "switched"
    names = ("name", "kind", "episodes", "first_seed")
    check_fields(field, values, (*names, "switches" if switched else "programs"))
    if values["kind"] not in KINDS:
        raise InputError(f"{field}.kind", values["kind"], f"one of {KINDS}")
    _check_number(f"{field}.episodes", values["episodes"])
    own = {name: values[name] for name in names}
    if switched:
        switches = [_switch(f"{field}.switches[{place}]", row) for place, row in enumerate(values["switches"])]
        result = Cell(**own, switches=tuple(switches))
    else:
        chosen = [programs.program(name) for name in values["programs"]]
        unseen = [item.name for item in chosen if (item in programs.UNSEEN_PROGRAMS) != (values["kind"] == "unseen")]
        if unseen:
            raise InputError(f"{field}.programs", unseen, f"programs that are {values['kind']}")
        result = Cell(**own, programs=tuple(values["programs"]))
    if not (result.programs or result.switches):
        raise InputError(field, "nothing to do", "at least one program or switch")
    return result


def _switch(field: str, values: Any) -> Switch:
    check_fields(field, values, ("program", "after", "then", "from"))
    switch = Switch(values["program"], values["after"], values["then"], values["from"])
    start, then = programs.program(switch.program), programs.program(switch.then)
    if not (0 < switch.after < len(start.tasks) and 0 <= switch.first < len(then.tasks)):
        raise InputError(field, f"after {switch.after}, from {switch.first}", "tasks of the two programs")
    tasks = (*start.tasks[: switch.after], *then.tasks[switch.first :])
    if not composition.feasible(tasks, composition.start(start.tasks)):
        raise InputError(field, f"the tasks {tasks}", "tasks that the table allows")
    return switch


def _check_seeds(path: str, cells: Sequence[Cell]) -> None:
    """No scene is in two cells or in a recording plan of the tabletop."""
    taken: dict[int, str] = {}
    for plan in (name for name in PLANS if name != "stock"):
        taken |= {row.seed: f"the recording plan {plan!r}" for row in PLANS[plan]()}
    for cell in cells:
        for seed in range(cell.first_seed, cell.first_seed + cell.episodes):
            if seed in taken:
                raise InputError(f"{path}: seed {seed} of cell {cell.name!r}", f"in {taken[seed]}", "a seed of its own")
            taken[seed] = f"cell {cell.name!r}"
