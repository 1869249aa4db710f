"""Metrics as JSON lines, one a reported step, and the same to TensorBoard if its extra is installed and wanted.

A line: {"step", "stage", "loss", "grad_norm", "learning_rate", "events", "tokens_per_s", "seconds", ...} and, at
evaluation steps, "heldout_loss".
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from wallwm_jax.core.errors import InputError
from wallwm_jax.train.line_files import LineFile, Note, read_lines

FIELDS = ("step",)
"""Numbers that every line has."""
WALL_CLOCK = frozenset({"seconds", "tokens_per_s"})
"""Fields that two equal runs do not share."""


class MetricsFile:
    """Appends lines to `path`. Lines past `resume_step` are dropped first: an interrupted run had written them, and the
    resumed run writes them again. `note` tells a person of damaged lines and failed writes; see `LineFile`."""

    def __init__(self, path: str | pathlib.Path, resume_step: int, note: Note = print):
        self._file = LineFile(pathlib.Path(path), FIELDS, note)
        self._file.keep(lambda line: line["step"] <= resume_step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line; a number that is not finite becomes null, which JSON can say."""
        self._file.append({name: _finite(value) for name, value in line.items()})


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, by step; raises InputError when there is no such file or a line is damaged."""
    return read_lines(pathlib.Path(path), FIELDS, "the JSON lines that training wrote")


class TensorBoard:
    """The same lines as TensorBoard scalars (extra `tensorboard`)."""

    def __init__(self, directory: str | pathlib.Path, resume_step: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError(
                "config.tensorboard", "no module tensorboardX", "pip install wallwm_jax[tensorboard]"
            ) from error
        self._writer = SummaryWriter(str(directory), purge_step=resume_step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Every number of the line under `<stage>/<name>`."""
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(f"{line['stage']}/{name}", value, line["step"])

    def close(self) -> None:
        self._writer.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
