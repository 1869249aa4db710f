"""DCT-II of action trajectories that lie packed in one row (the optional term of WALL-WM eq. 13)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def packed_basis(
    segment_ids: Int[Array, "B A"], positions: Int[Array, "B A"], mask: Bool[Array, "B A"]
) -> tuple[Float[Array, "B A A"], Float[Array, "B A"]]:
    """(orthonormal DCT-II matrix of a row, decay exp(-j / (T_a / 4)) of each coefficient).

    Block diagonal: the coefficient j of an event stands in the event's slot of position j and sums over the event's
    valid slots alone. T_a is the event's number of valid slots. Rows and columns of invalid slots are zero.
    """
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    length = jnp.maximum(jnp.sum(same, axis=-1), 1).astype(jnp.float32)
    order, step = positions.astype(jnp.float32), positions.astype(jnp.float32)
    angle = jnp.pi / length[:, :, None] * order[:, :, None] * (step[:, None, :] + 0.5)
    scale = jnp.where(order == 0, jnp.sqrt(1 / length), jnp.sqrt(2 / length))
    return jnp.where(same, scale[:, :, None] * jnp.cos(angle), 0.0), jnp.exp(-order / (length / 4))
