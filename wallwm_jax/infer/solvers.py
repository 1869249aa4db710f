"""Euler's method on the flow from pure noise (t = 1) to data (t = 0), on the time grid that training's anchor uses."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from wallwm_jax.core.errors import InputError
from wallwm_jax.objectives.flow import shift_time


def time_grid(steps: int, shift: float = 1.0, start: float = 0.0, stop: float = 1.0) -> Float[np.ndarray, "times"]:
    """`steps + 1` decreasing times between the fractions `start` and `stop` of the way from pure noise to data.

    Wan's schedule: t = shift u / (1 + (shift - 1) u) with u falling linearly, so that step 45 of 50 with a shift of 5
    lies at t = 0.36. `time_grid(n, shift)` is `time_grid(k, shift, 0, k / n)` followed by the rest.
    """
    if steps < 0 or not 0 <= start <= stop <= 1:
        raise InputError("time grid", f"{steps} steps from {start} to {stop}", "steps >= 0 and 0 <= start <= stop <= 1")
    remaining = 1.0 - np.linspace(start, stop, steps + 1)
    return shift_time(remaining, shift).astype(np.float32)


def euler(
    velocity: Callable[[Float[Array, "..."], Float[Array, ""]], Float[Array, "..."]],
    sample: Float[Array, "..."],
    times: Float[np.ndarray, "times"],
) -> Float[Array, "..."]:
    """Carries `sample` from `times[0]` to `times[-1]` along `velocity(sample, t)` = dz/dt (noise minus data)."""

    def step(current, pair):
        now, following = pair
        return current + (following - now) * velocity(current, now), None

    if len(times) < 2:
        return sample
    return jax.lax.scan(step, sample, (times[:-1], times[1:]))[0]


def split_steps(steps: int, anchor_step: int, denoise_steps: int) -> tuple[int, int]:
    """How many of `steps` Euler steps lie before the anchor `anchor_step / denoise_steps` and how many after it.

    The anchor is always hit exactly; each side that is not empty gets at least one step.
    """
    if not 0 <= anchor_step <= denoise_steps or denoise_steps < 1:
        raise InputError("anchor_step", f"{anchor_step} of {denoise_steps}", "0 <= anchor_step <= denoise_steps")
    before = round(steps * anchor_step / denoise_steps)
    before = max(before, 1) if anchor_step else 0
    after = max(steps - before, 1) if anchor_step < denoise_steps else 0
    return before, after
