"""Measures the seconds of each stage of a prediction, synchronising with the device."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax


class StageTimer:
    """Accumulates seconds by stage name.

    Every measured call blocks until its result is ready, so asynchronous dispatch does not shift time between stages.
    This prevents the host from running ahead of the device; omit the timer where that matters.
    """

    def __init__(self):
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def run(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, complete on the device; its seconds are added to `stage`."""
        started = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        self._seconds[stage] += time.perf_counter() - started
        return result

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last `take`; resets all to zero."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


def timed(timer: StageTimer | None, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, measured if there is a timer."""
    return function(*arguments) if timer is None else timer.run(stage, function, *arguments)
