"""Pictures of several sizes in one run (buckets): every batch has one size, chosen by arithmetic on (seed, step).

All processes choose alike, and a resumed run goes on with the sizes it would have had. Frames are resized as they are
loaded, by the same filter for every size; a size equal to the recording's leaves them as they are.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from wallwm_jax.core.errors import InputError

Size = tuple[int, int]
"""Height and width in pixels."""

_STREAM = 2
"""Word of Philox's counter that keeps these draws apart from the sampler's (0) and from the pools' orders (1)."""


def resolution_of(step: int, seed: int, resolutions: Sequence[Size], native: Size) -> Size:
    """The picture size of batch `step`: each of `resolutions` as likely as the others; `native` if there are none."""
    if not resolutions:
        return native
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[step, _STREAM, 0, 0]))
    return resolutions[int(generator.integers(len(resolutions)))]


def check_resolutions(field: str, resolutions: Sequence[Sequence[int]], compression: int) -> None:
    """Raises InputError for a size that is not a height and a width, multiples of a latent cell's `compression`."""
    for place, size in enumerate(resolutions):
        if len(size) != 2 or any(side < 1 or side % compression for side in size):
            raise InputError(f"{field}[{place}]", size, f"height and width, multiples of {compression} (a latent cell)")


def resize(frames: UInt8[np.ndarray, "N V H W 3"], size: Size) -> UInt8[np.ndarray, "N V H2 W2 3"]:
    """Frames of another size, rounded to whole numbers.

    Triangle filter, separately along height and width, as wide as a new pixel where that is larger than an old one
    (antialiased), else bilinear. Pixels are areas: the corners of the two pictures coincide, so that a point at column
    u, measured from the left edge, stands at u W2 / W.
    """
    height, width = frames.shape[2:4]
    if (height, width) == size:
        return frames
    rows, columns = _filter(height, size[0]), _filter(width, size[1])
    narrow = np.einsum("nvhwc,xw->nvhxc", frames.astype(np.float32), columns, optimize=True)
    small = np.einsum("nvhxc,yh->nvyxc", narrow, rows, optimize=True)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


@functools.cache
def _filter(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of the old pixels in every new one; rows sum to 1."""
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(old)[None] + 0.5 - centres) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def scaled_intrinsics(
    intrinsics: Float[np.ndarray, "*batch 3 3"], old: Size, new: Size
) -> Float[np.ndarray, "*batch 3 3"]:
    """Intrinsics in the pixels of the resized picture. The recording's principal point counts from the left edge of the
    first pixel, as `resize` does."""
    factors = np.array([new[1] / old[1], new[0] / old[0], 1.0], intrinsics.dtype)
    return intrinsics * factors[:, None]


def visible_cells(borders: Int[np.ndarray, "V 4"], old: Size, new: Size, compression: int) -> Bool[np.ndarray, "V h w"]:
    """Latent cells of the resized picture that lie wholly inside it and outside its black borders.

    `borders` are those of every view at the top, bottom, left and right, in the recording's pixels.
    """
    (height, width), down, across = new, new[0] / old[0], new[1] / old[1]
    rows, columns = (np.arange(-(-side // compression)) * compression for side in new)
    visible = np.empty((len(borders), len(rows), len(columns)), bool)
    for view, (top, bottom, left, right) in enumerate(borders):
        inside_rows = (rows >= top * down) & (rows + compression <= height - bottom * down)
        inside_columns = (columns >= left * across) & (columns + compression <= width - right * across)
        visible[view] = inside_rows[:, None] & inside_columns
    return visible
