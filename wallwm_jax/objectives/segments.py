"""Values of event segments brought to the slots they own, and masked means."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


def of_segments(values: Float[Array, "B *K S"], segment_ids: Int[Array, "B N"]) -> Float[Array, "B *K N"]:
    """`values` of segment id - 1 at every slot; padding (id 0) reads segment 0 and must be masked by the caller."""
    index = jnp.maximum(segment_ids - 1, 0)
    index = index.reshape(index.shape[0], *(1,) * (values.ndim - 2), index.shape[1])
    return jnp.take_along_axis(values, index, axis=-1)


def rows_of_segments(values: Shaped[Array, "B S D"], segment_ids: Int[Array, "B N"]) -> Shaped[Array, "B N D"]:
    """Vector of segment id - 1 at every slot; padding (id 0) reads segment 0."""
    return jnp.take_along_axis(values, jnp.maximum(segment_ids - 1, 0)[..., None], axis=1)


def masked_mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean over the places where `mask` holds, 0 if there is none."""
    total = jnp.sum(jnp.where(mask, values, 0.0), dtype=jnp.float32)
    return total / jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
