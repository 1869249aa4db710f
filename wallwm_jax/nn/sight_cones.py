"""Sight cones: which patches of two calibrated cameras may show the same matter (WALL-WM eqs. 2-6).

A patch is a cone with its apex at the camera centre, its axis through the patch centre and a half-angle that encloses
the patch. World frame: the extrinsics' (metres).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_PARALLEL = 1e-6


class Cones(NamedTuple):
    """One cone a patch."""

    apex: Float[Array, "*batch n 3"]
    """Metres, world frame."""
    axis: Float[Array, "*batch n 3"]
    """Unit vectors, world frame."""
    half_angle: Float[Array, "*batch n"]
    """Radians."""


def patch_cones(
    intrinsics: Float[Array, "*batch 3 3"],
    extrinsics: Float[Array, "*batch 4 4"],
    grid: tuple[int, int],
    patch_pixels: int,
) -> Cones:
    """Cones of a camera's patches, row-major (eqs. 2-3). Pixel (0, 0)'s corner is the image's corner."""
    rows, columns = grid
    y, x = jnp.meshgrid(jnp.arange(rows) + 0.5, jnp.arange(columns) + 0.5, indexing="ij")
    centre = jnp.stack([x, y], -1).reshape(-1, 1, 2)
    corners = jnp.array([[0.0, 0.0], [-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    pixels = (centre + corners) * patch_pixels
    pixels = jnp.concatenate([pixels, jnp.ones_like(pixels[..., :1])], -1)
    # A camera of unknown calibration may come as zeros: its cones are never used, but must stay finite.
    usable = jnp.abs(jnp.linalg.det(intrinsics)) > 0
    inverse = jnp.linalg.inv(jnp.where(usable[..., None, None], intrinsics, jnp.eye(3)))
    turn = jnp.swapaxes(extrinsics[..., :3, :3], -1, -2)
    rays = jnp.einsum("...ij,...jk,npk->...npi", turn, inverse, pixels)
    rays = rays / jnp.maximum(jnp.linalg.norm(rays, axis=-1, keepdims=True), _PARALLEL)
    axis = rays[..., 0, :]
    cosine = jnp.einsum("...npi,...ni->...np", rays[..., 1:, :], axis)
    half_angle = jnp.max(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), -1)
    apex = -jnp.einsum("...ij,...j->...i", turn, extrinsics[..., :3, 3])
    return Cones(jnp.broadcast_to(apex[..., None, :], axis.shape), axis, half_angle)


def cones_meet(first: Cones, second: Cones, reach: tuple[float, float]) -> Bool[Array, "*batch q k"]:
    """Whether the axes' nearest points within `reach` (metres) are no further apart than both cones' radii there
    (eqs. 4-6): the first axis's point of closest approach is clamped, then the second's nearest point to it."""
    offset = first.apex[..., :, None, :] - second.apex[..., None, :, :]
    along = jnp.einsum("...qi,...ki->...qk", first.axis, second.axis)
    on_first = jnp.einsum("...qki,...qi->...qk", offset, first.axis)
    on_second = jnp.einsum("...qki,...ki->...qk", offset, second.axis)
    t1 = (along * on_second - on_first) / jnp.maximum(1.0 - along**2, _PARALLEL)
    t1 = jnp.clip(t1, *reach)
    t2 = jnp.clip(on_second + t1 * along, *reach)
    gap = offset + t1[..., None] * first.axis[..., :, None, :] - t2[..., None] * second.axis[..., None, :, :]
    radii = t1 * first.half_angle[..., :, None] + t2 * second.half_angle[..., None, :]
    return jnp.linalg.norm(gap, axis=-1) <= radii


def co_visible(
    intrinsics: Float[Array, "*batch V 3 3"],
    extrinsics: Float[Array, "*batch V 4 4"],
    grid: tuple[int, int],
    patch_pixels: int,
    reach: tuple[float, float],
) -> Bool[Array, "*batch q k"]:
    """`cones_meet` over all patches of all cameras, view-major."""
    cones = patch_cones(intrinsics, extrinsics, grid, patch_pixels)
    batch = intrinsics.shape[:-3]
    apex, axis = (part.reshape(*batch, -1, 3) for part in (cones.apex, cones.axis))
    cones = Cones(apex, axis, cones.half_angle.reshape(*batch, -1))
    return cones_meet(cones, cones, reach)
