"""A batch, or a part of it: what lets an objective give a part the share that it has in the whole batch's loss.

An objective's loss is linear in masked means, and its randomness belongs to rows. A part's mean is its own sum divided
by the number of places of the whole batch, and its draws are its own rows of the whole batch's: over all parts losses,
metrics and gradients add up to those of the whole.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from wallwm_jax.core.mesh import BATCH_AXES, row_shards
from wallwm_jax.core.types import TrainingBatch
from wallwm_jax.objectives.segments import masked_mean

Mean = Callable[[Float[Array, "..."], Bool[Array, "..."]], Float[Array, ""]]
"""(values, mask of the same shape) -> mean over the places where it holds."""


class Portion:
    """What an objective's rows are of the global batch: all of it."""

    def mean(self, mask_of: Callable[[Any], Bool[Array, "..."]]) -> Mean:
        """The mean over a mask; `mask_of(batch)` is this mask of any batch."""
        return masked_mean

    def normal(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        """Standard normal numbers; the first axis are the objective's rows."""
        return jax.random.normal(key, shape)

    def uniform(
        self, key: PRNGKeyArray, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0
    ) -> Float[Array, "B ..."]:
        """Numbers from `minval` to `maxval`; the first axis are the objective's rows."""
        return jax.random.uniform(key, shape, minval=minval, maxval=maxval)

    def constant(self, value: float) -> float:
        """What a constant in the loss, or in a metric, is here."""
        return value


WHOLE = Portion()


@dataclasses.dataclass(frozen=True)
class Part(Portion):
    """Part `number` of the `count` equal parts of the batch `whole`: of every piece into which the mesh cuts the rows
    it has the same share, so that all rows stay where they are."""

    whole: TrainingBatch
    number: Int[Array, ""]
    count: int

    def rows(self, values: Shaped[Array, "B ..."]) -> Shaped[Array, "b ..."]:
        """The part's rows of what has a row for each of the whole's."""
        shards, rest = row_shards(), values.shape[1:]
        pieces = values.reshape(shards, self.count, -1, *rest)
        own = jax.lax.dynamic_index_in_dim(pieces, self.number, axis=1, keepdims=False).reshape(-1, *rest)
        return own if shards == 1 else jax.lax.with_sharding_constraint(own, PartitionSpec(BATCH_AXES))

    @property
    def batch(self) -> TrainingBatch:
        return jax.tree.map(self.rows, self.whole)

    def mean(self, mask_of: Callable[[Any], Bool[Array, "..."]]) -> Mean:
        return functools.partial(_share_of_mean, jnp.sum(mask_of(self.whole), dtype=jnp.float32))

    def normal(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
        return self.rows(super().normal(key, self._of_whole(shape)))

    def uniform(
        self, key: PRNGKeyArray, shape: tuple[int, ...], minval: float = 0.0, maxval: float = 1.0
    ) -> Float[Array, "b ..."]:
        return self.rows(super().uniform(key, self._of_whole(shape), minval, maxval))

    def constant(self, value: float) -> float:
        return value / self.count

    def _of_whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self.count, *shape[1:])


def _share_of_mean(
    places: Float[Array, ""], values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]
) -> Float[Array, ""]:
    return jnp.sum(jnp.where(mask, values, 0.0), dtype=jnp.float32) / jnp.maximum(places, 1.0)
