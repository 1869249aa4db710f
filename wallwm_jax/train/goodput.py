"""Where the time of a run goes: what each attempt at a stage has spent its seconds on, and what interruptions cost.

A line of the file: {"attempt", "step", "init", "compile", "data", "train", "evaluate", "checkpoint"}, all seconds since
the attempt began, to the microsecond. "data" is waiting for a batch; "train" is the rest of the loop, the device's work
above all.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator

import jax

from wallwm_jax.train.line_files import LineFile, Note, existing_lines, read_lines

FILE = "goodput.jsonl"
KINDS = ("init", "compile", "data", "train", "evaluate", "checkpoint")
FIELDS = ("attempt", "step", *KINDS)


class Goodput:
    """The clock of one attempt, which begins with "init"; appends to the `FILE` of a stage's directory, of several
    processes the first. `note` tells a person of damaged lines and failed writes; see `LineFile`."""

    def __init__(self, directory: pathlib.Path, clock: Callable[[], float] = time.monotonic, note: Note = print):
        self._clock, path = clock, directory / FILE
        self._file = LineFile(path, FIELDS, note) if jax.process_index() == 0 else None
        earlier = existing_lines(path, FIELDS) if self._file is None else self._file.lines
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
        if self._file is not None:
            seconds = {kind: round(value, 6) for kind, value in self._seconds.items()}
            self._file.append({"attempt": self._attempt, "step": step, **seconds})


def goodput(directory: str | pathlib.Path) -> dict[str, float]:
    """Seconds of all attempts at a stage by kind, and under "lost" those of steps that a later attempt had to do again.
    What an attempt did after its last line is in none of them.

    Raises InputError where there is no such file or a line of it is damaged.
    """
    lines = read_lines(pathlib.Path(directory) / FILE, FIELDS, "the JSON lines that training wrote")
    attempts = sorted({line["attempt"] for line in lines})
    rows = [[line for line in lines if line["attempt"] == attempt] for attempt in attempts]
    total = dict.fromkeys((*KINDS, "lost"), 0.0)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        kept = [line for line in row if following is None or line["step"] <= following[0]["step"]]
        for kind in KINDS:
            total[kind] += kept[-1][kind] if kept else 0.0
            total["lost"] += row[-1][kind] - (kept[-1][kind] if kept else 0.0)
    return total
