"""Faults on purpose, to try what a run does about them: `kill@step=7,phase=save`.

    kind[@key=value,...]     kinds: kill, write_error, nan, inf, huge; keys: step, phase, count

`kill` ends the process by SIGKILL and `write_error` fails a save, both the first time that the phase is reached at or
after the step; a run compiles once, before its first step, so `phase=compile` takes none. `nan`, `inf`, `huge` (1e20)
replace the gradients of `count` steps from that one on.
"""

import dataclasses
import errno
import os
import pathlib
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from wallwm_jax.core.errors import InputError

GRADIENTS = {"nan": float("nan"), "inf": float("inf"), "huge": 1e20}
PHASES = {
    "kill": ("step", "compile", "data", "save"),
    "write_error": ("save",),
    **{kind: ("step",) for kind in GRADIENTS},
}
"""Kind -> where it can strike, the default first."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of a run. `step` counts from 1, as reports do; `count` is for the kinds that replace gradients."""

    kind: str
    step: int = 1
    phase: str = "step"
    count: int = 1

    def __post_init__(self):
        if self.kind not in PHASES:
            raise InputError("fault", repr(self.kind), f"one of {sorted(PHASES)}")
        if self.phase not in PHASES[self.kind]:
            raise InputError(f"fault {self.kind}: phase", repr(self.phase), f"one of {sorted(PHASES[self.kind])}")
        if min(self.step, self.count) < 1:
            raise InputError(f"fault {self.kind}", f"step {self.step}, count {self.count}", "at least 1")
        if self.step > 1 and self.phase == "compile":
            raise InputError(f"fault {self.kind}: step", self.step, "no step: a run compiles once, before its first")
        if self.count > 1 and self.kind not in GRADIENTS:
            raise InputError(f"fault {self.kind}: count", self.count, f"no count but for {sorted(GRADIENTS)}")

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Reads `kind@step=7,phase=save`; raises InputError naming what is wrong."""
        kind, _, rest = text.partition("@")
        values: dict[str, Any] = {"phase": PHASES.get(kind, ("step",))[0]}
        for part in filter(None, rest.split(",")):
            key, _, value = part.partition("=")
            if key not in ("step", "phase", "count") or not value or (key != "phase" and not value.isdecimal()):
                raise InputError(f"fault {text!r}", repr(part), "step=NUMBER, phase=NAME or count=NUMBER")
            values[key] = value if key == "phase" else int(value)
        return cls(kind, **values)

    def __str__(self) -> str:
        return f"{self.kind}@step={self.step},phase={self.phase},count={self.count}"

    def strike(self, phase: str, step: int, path: pathlib.Path | None = None) -> None:
        """Kills the process, or raises OSError as if `path` could not be written, if this is the fault's phase and
        step."""
        if phase != self.phase or step < self.step:
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "write_error":
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, on purpose", str(path))

    def among(self, batches: Iterable[Any], start: int) -> Iterator[Any]:
        """The batches of steps `start + 1` and on, striking before each."""
        source = iter(batches)
        try:
            for step, batch in enumerate(source, start + 1):
                self.strike("data", step)
                yield batch
        finally:
            if hasattr(source, "close"):
                source.close()

    def corrupt(self, gradients: Any, step: Int[Array, ""]) -> Any:
        """The gradients of step number `step`, traced, or what stands in their place."""
        if self.kind not in GRADIENTS:
            return gradients
        struck = (step >= self.step) & (step < self.step + self.count)
        return jax.tree.map(lambda leaf: jnp.where(struck, GRADIENTS[self.kind], leaf).astype(leaf.dtype), gradients)
