"""Learning rate schedules: functions of the step alone, never of wall clock."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wallwm_jax.core.errors import InputError

Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]
SHAPES = ("cosine", "linear", "constant")


def warmup_then(shape: str, peak: float, warmup_steps: int, steps: int, final_fraction: float = 0.0) -> Schedule:
    """Linear warm-up to `peak` in `warmup_steps`, then `shape` down to `final_fraction * peak` at `steps`.

    The first step's rate is peak / warmup_steps, not zero. Raises InputError on an unknown shape or a warm-up that
    leaves no step.
    """
    if shape not in SHAPES:
        raise InputError("schedule", repr(shape), f"one of {SHAPES}")
    if not 0 <= warmup_steps < max(steps, 1):
        raise InputError("warmup_steps", warmup_steps, f"at least 0 and fewer than steps = {steps}")

    def rate(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0)
        done = jnp.clip((step - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
        fall = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)), "linear": 1 - done, "constant": jnp.ones_like(done)}
        return peak * warm * (final_fraction + (1 - final_fraction) * fall[shape])

    return rate
