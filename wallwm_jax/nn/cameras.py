"""Points of the world in the pictures of calibrated cameras."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_NEAREST = 1e-3
"""Metres in front of a camera from which a point can be seen."""


def project(
    points: Float[Array, "*points 3"],
    intrinsics: Float[Array, "*points 3 3"],
    extrinsics: Float[Array, "*points 4 4"],
    size: tuple[int, int],
) -> tuple[Float[Array, "*points 2"], Bool[Array, "*points"]]:
    """(row, column) of each point in its camera's picture, -1 to 1 from edge to edge, and whether it lies inside.

    Args:
      points: metres, world frame.
      intrinsics: pixels; pixel (0, 0)'s corner is the picture's corner.
      extrinsics: world to camera, OpenCV axes.
      size: height and width of the picture, pixels.
    """
    seen = jnp.einsum("...ij,...j->...i", extrinsics[..., :3, :3], points) + extrinsics[..., :3, 3]
    depth = seen[..., 2]
    pixels = jnp.einsum("...ij,...j->...i", intrinsics, seen) / jnp.maximum(depth, _NEAREST)[..., None]
    places = 2.0 * jnp.stack([pixels[..., 1] / size[0], pixels[..., 0] / size[1]], -1) - 1.0
    inside = (depth > _NEAREST) & (jnp.abs(places) < 1.0).all(-1)
    return jnp.where(inside[..., None], places, 0.0), inside
