"""Metrics as JSON lines, one a reported step, and the same to TensorBoard if its extra is installed and wanted.

A line: {"step", "stage", "loss", "grad_norm", "learning_rate", "events", "tokens_per_s", "seconds", ...} and, at
evaluation steps, "heldout_loss".
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import write_durably

WALL_CLOCK = frozenset({"seconds", "tokens_per_s"})
"""Fields that two equal runs do not share."""


class MetricsFile:
    """Appends lines to `path`. Lines past `resume_step` are dropped first: an interrupted run had written them, and the
    resumed run writes them again."""

    def __init__(self, path: str | pathlib.Path, resume_step: int):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(self.path) if line["step"] <= resume_step]
        write_durably(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line; a number that is not finite becomes null, which JSON can say."""
        clean = {name: _finite(value) for name, value in line.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(clean) + "\n")


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, by step; raises InputError when there is no such file."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"metrics {path}", "no such file", "the JSON lines that training wrote")
    return _lines(path)


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


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Complete lines; a last one that was cut off while being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
