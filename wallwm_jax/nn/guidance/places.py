"""Where in the image a patch lies: fixed features of its place, and learned tables of places for another grid."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def place_features(grid: tuple[int, int], count: int) -> Float[Array, "n count"]:
    """Sines and cosines of a patch centre's row and column in [0, 1], at 1/4, 1/2, ... cycles an image."""
    rows, columns = grid
    y, x = jnp.meshgrid((jnp.arange(rows) + 0.5) / rows, (jnp.arange(columns) + 0.5) / columns, indexing="ij")
    cycles = jnp.pi / 2 * 2.0 ** (jnp.arange(count // 4) % 8)
    angles = jnp.stack([y.reshape(-1, 1) * cycles, x.reshape(-1, 1) * cycles], -1).reshape(rows * columns, -1)
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.pad(features, ((0, 0), (0, count - features.shape[-1])))


def resized(
    table: Float[Array, "V places embed"], learned: tuple[int, int], grid: tuple[int, int]
) -> Float[Array, "V n embed"]:
    """A table with a row for every patch of the grid `learned`, as one for the grid `grid`: interpolated linearly over
    the image, or the table itself where both are the same."""
    if learned == grid:
        return table
    views, _, width = table.shape
    image = table.reshape(views, *learned, width)
    return jax.image.resize(image, (views, *grid, width), "linear").reshape(views, -1, width)
