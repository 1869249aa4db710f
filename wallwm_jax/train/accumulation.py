"""What a step computes of a batch, part by part: the memory of a part, the sums of the whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wallwm_jax.core.types import TrainingBatch
from wallwm_jax.objectives.portions import Part

OfPart = Callable[[TrainingBatch, Part], tuple[Any, Any]]
"""From a part's rows, and what they are of the batch, to two trees of shares that add up to the whole's."""


def summed(of_part: OfPart, batch: TrainingBatch, parts: int, start: Any) -> tuple[Any, Any]:
    """The sums of both results of `of_part` over so many parts of the batch.

    The first is added up as it comes, from `start`, zeros of its shapes: it should be what is large.
    """

    def add(total: Any, number: jax.Array) -> tuple[Any, Any]:
        part = Part(batch, number, parts)
        large, small = of_part(part.batch, part)
        return jax.tree.map(jnp.add, total, large), small

    large, small = jax.lax.scan(add, start, jnp.arange(parts))
    return large, jax.tree.map(lambda shares: jnp.sum(shares, 0), small)
