"""Patches: square groups of latent cells, which are a tower's tokens."""

from jaxtyping import Array, Float

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.activations import joined


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Patch rows and columns of height x width latent cells; raises InputError if the patch does not divide them."""
    if height % patch or width % patch or not height or not width:
        raise InputError("latent cells", f"{height} x {width}", f"multiples of the patch, {patch} x {patch}")
    return height // patch, width // patch


def patchify(cells: Float[Array, "B F V h w C"], patch: int) -> Float[Array, "B F V n values"]:
    """Tokens of patch x patch latent cells, row-major."""
    *batch, height, width, channels = cells.shape
    grid = height // patch, patch, width // patch, patch
    cells = cells.reshape(*joined(*batch), *grid, channels).swapaxes(-4, -3)
    return cells.reshape(*batch, (height // patch) * (width // patch), patch * patch * channels)


def unpatchify(
    tokens: Float[Array, "B F V n values"], grid: tuple[int, int], patch: int
) -> Float[Array, "B F V h w C"]:
    """The inverse of `patchify` on a grid of patch rows x patch columns."""
    *batch, _, values = tokens.shape
    channels = values // patch**2
    cells = tokens.reshape(*joined(*batch), *grid, patch, patch, channels).swapaxes(-4, -3)
    return cells.reshape(*batch, grid[0] * patch, grid[1] * patch, channels)
