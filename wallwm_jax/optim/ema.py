"""Exponential moving average of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def decay_at(step: Int[Array, ""] | int, decay: float) -> Float[Array, ""]:
    """min(decay, (1 + step) / (10 + step)): short memory first, so that the initial weights do not linger."""
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def update(average: Any, parameters: Any, decay: Float[Array, ""] | float) -> Any:
    """average <- decay average + (1 - decay) parameters, in the average's dtype (fp32)."""
    return jax.tree.map(lambda a, p: a + (1 - decay) * (p.astype(a.dtype) - a), average, parameters)
