"""What a person sees while a stage trains: a bar on a terminal, plain lines elsewhere."""

import io
import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@runtime_checkable
class Reporter(Protocol):
    """Receives every step's number, every line of metrics, and what a person should know besides."""

    def start(self, stage: str, step: int, steps: int) -> None: ...

    def advance(self, step: int) -> None: ...

    def report(self, line: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def stop(self) -> None: ...


class PlainReporter:
    """One line a report, for logs."""

    def __init__(self, file: io.TextIOBase | None = None):
        self._file = file or sys.stdout
        self._steps = 0

    def start(self, stage: str, step: int, steps: int) -> None:
        self._steps = steps
        print(f"stage {stage}: from step {step} to {steps}", file=self._file, flush=True)

    def advance(self, step: int) -> None:
        """A step without a report says nothing."""

    def report(self, line: Mapping[str, Any]) -> None:
        print(f"{line['stage']} {line['step']}/{self._steps}  {summary(line)}", file=self._file, flush=True)

    def note(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def stop(self) -> None:
        """Nothing is left open."""


class BarReporter:
    """A progress bar with the last report beside it."""

    def __init__(self, console: Console):
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, TextColumn("{task.fields[summary]}"), console=console)
        self._task = None

    def start(self, stage: str, step: int, steps: int) -> None:
        self._task = self._progress.add_task(f"stage {stage}", total=steps, completed=step, summary="")
        self._progress.start()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def report(self, line: Mapping[str, Any]) -> None:
        self._progress.update(self._task, completed=line["step"], summary=summary(line))

    def note(self, text: str) -> None:
        self._progress.console.print(text, soft_wrap=True, markup=False)

    def stop(self) -> None:
        self._progress.stop()


def default_reporter() -> Reporter:
    """A bar if standard output is a terminal, plain lines otherwise; of several processes the first alone reports."""
    if jax.process_index() != 0:
        return PlainReporter(open(os.devnull, "w"))
    console = Console()
    return BarReporter(console) if console.is_terminal else PlainReporter()


def summary(line: Mapping[str, Any]) -> str:
    """`loss 0.412  heldout 0.398  1.2k tokens/s`."""
    parts = [
        f"{name} {line[key]:.4f}"
        for key, name in (("loss", "loss"), ("heldout_loss", "heldout"))
        if line.get(key) is not None
    ]
    if "tokens_per_s" in line:
        parts.append(f"{line['tokens_per_s'] / 1000:.1f}k tokens/s")
    return "  ".join(parts)
