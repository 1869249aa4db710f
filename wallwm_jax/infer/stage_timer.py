"""Seconds that each stage of a prediction takes, measured with the device idle before and after it."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax


class StageTimer:
    """Adds up the seconds of named stages.

    Every measured call waits for its own result, so that no stage is charged for the one before. That keeps the host
    from running ahead of the device: a server that needs the last per cent leaves the timer out.
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
        """Seconds by stage since the last `take`, which starts again from zero."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


def timed(timer: StageTimer | None, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, measured if there is a timer."""
    return function(*arguments) if timer is None else timer.run(stage, function, *arguments)
