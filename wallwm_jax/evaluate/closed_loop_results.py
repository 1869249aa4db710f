"""What a closed loop found, episode by episode and cell by cell."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wallwm_jax.evaluate.intervals import bootstrap, wilson
from wallwm_jax.evaluate.task_progress import TaskOutcome, succeeded


@dataclasses.dataclass(frozen=True)
class EventOutcome:
    """One event that was begun, and whether the scene showed it as done when it ended."""

    task: int
    verb: str
    object: str
    caption: str
    completed: bool
    steps: int


@dataclasses.dataclass(frozen=True)
class EpisodeResult:
    """One episode."""

    seed: int
    name: str
    tasks: tuple[TaskOutcome, ...]
    progress: float
    """Task Progress, 0 to 100."""
    events: tuple[EventOutcome, ...]
    steps: int
    refusals: Mapping[str, int]
    """Commands, plans and calls that were refused, by reason."""
    announced: tuple[int, int]
    """(right, all) of the events that the controller announced: right if it was the due one."""
    frames: UInt8[np.ndarray, "T H W 3"]
    """The first view at every observation, and at the end."""

    @property
    def success(self) -> bool:
        return succeeded(self.tasks)


@dataclasses.dataclass(frozen=True)
class LoopFilm:
    """Frames of one episode, evenly spaced in its observations."""

    title: str
    success: bool
    frames: UInt8[np.ndarray, "T H W 3"]


@dataclasses.dataclass(frozen=True)
class CellResult:
    """One controller in one cell of a protocol."""

    cell: str
    kind: str
    controller: str
    episodes: int
    events: int
    """Events begun."""
    completed: int
    by_verb: Mapping[str, tuple[int, int]]
    """(completed, begun) of each verb."""
    progress: float
    """Mean Task Progress, 0 to 100."""
    progress_interval: tuple[float, float]
    """95 %, by bootstrap over episodes."""
    successes: int
    success_interval: tuple[float, float]
    """95 % of the share of successes, Wilson's."""
    refusals: Mapping[str, int]
    announced: tuple[int, int]
    seconds: float
    details: tuple[Mapping[str, Any], ...]
    """Every episode, in plain values."""
    films: tuple[LoopFilm, ...]
    """A success and a failure, where there is one."""


@dataclasses.dataclass(frozen=True)
class ClosedLoopResult:
    """Cells of one protocol, whose file (and its rubric's) is kept word for word."""

    protocol: Mapping[str, Any]
    rubric: Mapping[str, Any]
    cells: Sequence[CellResult]

    @property
    def events(self) -> int:
        return sum(cell.events for cell in self.cells)

    @property
    def completed(self) -> int:
        return sum(cell.completed for cell in self.cells)

    def plain(self, details: bool = False) -> dict[str, Any]:
        """Everything but the films, and but the episodes one by one unless `details`, in values that JSON knows."""
        left_out = {"films"} if details else {"films", "details"}
        names = [field.name for field in dataclasses.fields(CellResult) if field.name not in left_out]
        cells = [{name: getattr(cell, name) for name in names} for cell in self.cells]
        return {"protocol": dict(self.protocol), "rubric": dict(self.rubric), "cells": cells}


def cell_result(
    cell: str, kind: str, controller: str, episodes: Sequence[EpisodeResult], seconds: float, film_frames: int = 10
) -> CellResult:
    """Sums up the episodes of one controller in one cell; there must be at least one."""
    events = [event for episode in episodes for event in episode.events]
    tally: dict[str, list[bool]] = defaultdict(list)
    for event in events:
        tally[event.verb].append(event.completed)
    progress, successes = [episode.progress for episode in episodes], sum(episode.success for episode in episodes)
    return CellResult(
        cell=cell,
        kind=kind,
        controller=controller,
        episodes=len(episodes),
        events=len(events),
        completed=sum(event.completed for event in events),
        by_verb={verb: (sum(outcomes), len(outcomes)) for verb, outcomes in tally.items()},
        progress=float(np.mean(progress)),
        progress_interval=bootstrap(progress),
        successes=successes,
        success_interval=wilson(successes, len(episodes)),
        refusals=dict(sum((Counter(episode.refusals) for episode in episodes), Counter())),
        announced=tuple(np.sum([episode.announced for episode in episodes], axis=0).tolist()),
        seconds=seconds,
        details=tuple(_details(episode) for episode in episodes),
        films=_films(episodes, film_frames),
    )


def _details(episode: EpisodeResult) -> dict[str, Any]:
    values = {field.name: getattr(episode, field.name) for field in dataclasses.fields(episode)}
    del values["frames"]
    values["tasks"] = [dataclasses.asdict(outcome) for outcome in episode.tasks]
    values["events"] = [dataclasses.asdict(event) for event in episode.events]
    return values | {"success": episode.success}


def _films(episodes: Sequence[EpisodeResult], count: int) -> tuple[LoopFilm, ...]:
    """The first success and the first failure."""
    films = []
    for wanted in (True, False):
        episode = next((episode for episode in episodes if episode.success == wanted), None)
        if episode is not None:
            places = np.linspace(0, len(episode.frames) - 1, min(count, len(episode.frames))).round().astype(int)
            title = f"{episode.name} (scene {episode.seed})"
            films.append(LoopFilm(title, wanted, episode.frames[places]))
    return tuple(films)
