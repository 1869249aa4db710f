"""Compiles a step for devices that are not there, and asks the compiler what it made."""

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from wallwm_jax.plan.hlo import parse
from wallwm_jax.plan.step import AbstractStep, using
from wallwm_jax.plan.traffic import Traffic, traffic

OPTIONS = {"exec_time_optimization_effort": -1.0}
"""Compiles three times as fast; what is left out are searches for faster schedules, not passes that decide memory."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"(?:Used |temporaries \(|requires? )([\d.]+)([KMGT]?)")


class Memory(NamedTuple):
    """Bytes of HBM on a device, as the compiler counts them. Results lie where donated arguments lay, but for what
    `results` says. `temporaries` is the size of all of them, `peak` the most that is held at a time, arguments
    included."""

    arguments: int
    results: int
    temporaries: int
    code: int
    peak: int


class Compiled(NamedTuple):
    """What came of compiling: memory and traffic, or else why it was refused and how many bytes it would have needed
    (where the compiler says so)."""

    seconds: float
    memory: Memory | None
    traffic: Traffic | None
    refusal: str | None = None
    needed: float | None = None


def compile_step(step: AbstractStep) -> Compiled:
    """Compiles a train step for the devices of its mesh."""
    with using(step.run.mesh):
        return compile_program(step.programs.step, (step.state, step.batch), step.run.mesh)


def compile_program(function: Any, arguments: Sequence[Any], mesh: Mesh) -> Compiled:
    """Compiles a jitted function. A program that does not fit the devices' memory is an answer, not an error."""
    started = time.monotonic()
    try:
        compiled = function.lower(*arguments).compile(compiler_options=OPTIONS)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(time.monotonic() - started, None, None, _summary(str(error)), needed_bytes(str(error)))
    seconds = time.monotonic() - started
    slices = [getattr(device, "slice_index", None) or 0 for device in mesh.devices.flat]
    return Compiled(seconds, _memory(compiled.memory_analysis()), traffic(parse(compiled.as_text()), slices))


def needed_bytes(message: str) -> float | None:
    """What a RESOURCE_EXHAUSTED error says would have been needed."""
    match = _NEEDED.search(message)
    return float(match[1]) * _UNITS[match[2]] if match else None


def _memory(found: Any) -> Memory:
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    parts = (found.argument_size_in_bytes, results, found.temp_size_in_bytes, found.generated_code_size_in_bytes)
    return Memory(*parts, peak=found.peak_memory_in_bytes or sum(parts))


def _summary(message: str) -> str:
    """The error's first lines: what follows lists every allocation."""
    return " ".join(line.strip() for line in message.splitlines()[:3] if line.strip())
