"""Where the time of a run goes: what each attempt at a stage has spent its seconds on, and what interruptions cost.

A line of the file: {"attempt", "step", "init", "compile", "data", "train", "evaluate", "checkpoint"}, all seconds since
the attempt began. "data" is waiting for a batch; "train" is the rest of the loop, the device's work above all.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import jax

from wallwm_jax.train.metrics import read_metrics

FILE = "goodput.jsonl"
KINDS = ("init", "compile", "data", "train", "evaluate", "checkpoint")


class Goodput:
    """The clock of one attempt, which begins with "init"; appends to the `FILE` of a stage's directory, of several
    processes the first."""

    def __init__(self, directory: pathlib.Path, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock = directory / FILE, clock
        earlier = read_metrics(self._path) if self._path.is_file() else []
        self._attempt = 1 + max((line["attempt"] for line in earlier), default=0)
        self._seconds, self._kind, self._mark = dict.fromkeys(KINDS, 0.0), "init", clock()

    def turn_to(self, kind: str) -> None:
        """From here on seconds are those of another kind."""
        now = self._clock()
        self._seconds[self._kind] += now - self._mark
        self._kind, self._mark = kind, now

    @contextlib.contextmanager
    def spent_on(self, kind: str) -> Iterator[None]:
        """Inside it seconds are those of another kind."""
        before = self._kind
        self.turn_to(kind)
        try:
            yield
        finally:
            self.turn_to(before)

    def write(self, step: int) -> None:
        """Adds a line for the step that the attempt has come to."""
        self.turn_to(self._kind)
        if jax.process_index() != 0:
            return
        seconds = {kind: round(value, 3) for kind, value in self._seconds.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"attempt": self._attempt, "step": step, **seconds}) + "\n")


def goodput(directory: str | pathlib.Path) -> dict[str, float]:
    """Seconds of all attempts at a stage by kind, and under "lost" those of steps that a later attempt had to do again.
    What an attempt did after its last line is in none of them.

    Raises InputError where there is no such file.
    """
    lines = read_metrics(pathlib.Path(directory) / FILE)
    attempts = sorted({line["attempt"] for line in lines})
    rows = [[line for line in lines if line["attempt"] == attempt] for attempt in attempts]
    total = dict.fromkeys((*KINDS, "lost"), 0.0)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        kept = [line for line in row if following is None or line["step"] <= following[0]["step"]]
        for kind in KINDS:
            total[kind] += kept[-1][kind] if kept else 0.0
            total["lost"] += row[-1][kind] - (kept[-1][kind] if kept else 0.0)
    return total
