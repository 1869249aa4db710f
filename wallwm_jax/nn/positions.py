"""Rotary positions: Wan's 3-D RoPE over (frame, row, column) and the camera RoPE bank (frame, row, column, view).

Pairs are (i, i + head_dim / 2). Angles are fp32: a bf16 angle is wrong by radians at position 200.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BASE = 10_000.0


class Rotation(NamedTuple):
    """Cosines and sines of every token's angles."""

    cosine: Float[Array, "*#batch tokens 1 pairs"]
    sine: Float[Array, "*#batch tokens 1 pairs"]


def split_pairs(pairs: int, axes: int) -> tuple[int, ...]:
    """Rotation pairs of each axis, Wan's rule: every axis gets `pairs // axes`, the first (frame) what is left over."""
    share = pairs // axes
    return (pairs - share * (axes - 1),) + (share,) * (axes - 1)


def axis_angles(positions: Int[Array, "*batch"], pairs: int) -> Float[Array, "*batch pairs"]:
    """Position times the geometric frequencies of one axis."""
    exponents = jnp.arange(pairs, dtype=jnp.float32) / max(pairs, 1)
    return positions.astype(jnp.float32)[..., None] * jnp.exp(-math.log(BASE) * exponents)


def rotation(angles: Float[Array, "*batch tokens pairs"]) -> Rotation:
    """Cosines and sines with an axis for the heads."""
    return Rotation(jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :])


def rotate(
    x: Float[Array, "*batch tokens heads head_dim"], by: Rotation
) -> Float[Array, "*batch tokens heads head_dim"]:
    """Rotates pair i of every head by the token's angle i, in fp32; keeps x's dtype."""
    first, second = jnp.split(x.astype(jnp.float32), 2, -1)
    turned = [first * by.cosine - second * by.sine, second * by.cosine + first * by.sine]
    return jnp.concatenate(turned, -1).astype(x.dtype)


def _grid(frames: Int[Array, "B F"], rows: int, columns: int) -> tuple[Array, Array, Array]:
    shape = (*frames.shape, rows, columns)
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)
    return tuple(jnp.broadcast_to(axis, shape) for axis in (frames[..., None, None], row, column))


def within_view_angles(frames: Int[Array, "B F"], rows: int, columns: int, pairs: int) -> Float[Array, "B F n pairs"]:
    """Angles of a view's tokens from (latent frame index in the event, patch row, patch column)."""
    axes = zip(_grid(frames, rows, columns), split_pairs(pairs, 3), strict=True)
    angles = jnp.concatenate([axis_angles(position, share) for position, share in axes], -1)
    return angles.reshape(*frames.shape, rows * columns, pairs)


def cross_view_angles(
    frames: Int[Array, "B F"], rows: int, columns: int, views: Float[Array, "V view_rotation"], pairs: int
) -> Float[Array, "B F V n pairs"]:
    """Angles of the camera RoPE bank, partitioned (frame, row, column, view); the view's own angles (radians) are
    learned and the same in every layer."""
    shares = split_pairs(pairs, 4)[:3]
    axes = zip(_grid(frames, rows, columns), shares, strict=True)
    place = jnp.concatenate([axis_angles(position, share) for position, share in axes], -1)
    batch, slots, count = *frames.shape, len(views)
    place = place.reshape(batch, slots, 1, rows * columns, -1)
    place = jnp.broadcast_to(place, (batch, slots, count, *place.shape[3:]))
    turn = jnp.broadcast_to(views[:, None], (batch, slots, count, rows * columns, views.shape[-1]))
    return jnp.concatenate([place, turn], -1)


def view_rotation_size(pairs: int) -> int:
    """Learned angles a view has in a bank of `pairs`."""
    return split_pairs(pairs, 4)[3]


def tau_rows(frames: Int[Array, "*batch"], longest: int) -> Int[Array, "*batch"]:
    """Rows of E_tau's table (of `longest` + 1) for latent frames counted from the anchor.

    DECIDE: tau counts from the anchor, not from the window's first frame as in eq. 11. A row then means the same in
    both kinds of window, and what stage 2 has learned of events holds for chunks from the start. The past has the
    table's last rows, which an event reaches only if it is about as long as the table.

    Only padding may lie outside -longest..longest, where the nearest row is taken: windows that do not fit the table
    are refused when a run starts (`models.fits.check_window`).
    """
    offsets = jnp.clip(frames, -longest, longest)
    return jnp.where(offsets < 0, longest + 1 + offsets, offsets)
