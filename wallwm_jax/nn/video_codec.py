"""Codecs between frames and latents: the protocol, whole videos in plain arrays (`encode_video`, `decode_video`), and
`HaarCodec`, an analytic codec: an orthonormal 3-D Haar wavelet transform.

    codec = HaarCodec(spatial_levels=3, kept_spatial=16, kept_temporal=2)
    frames = jnp.zeros((2, 9, 1, 64, 96, 3), jnp.uint8)
    latents = encode_video(codec, frames)  # [2, 3, 1, 8, 12, 96]
    floats = decode_video(codec, latents)  # [2, 9, 1, 64, 96, 3]
"""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from wallwm_jax.core.errors import InputError


@runtime_checkable
class VideoCodec(Protocol):
    """Frames in [-1, 1] <-> latents by groups of R frames; whole videos follow the rule 1 + R N -> 1 + N."""

    @property
    def group(self) -> int:
        """R: frames a latent."""

    @property
    def channels(self) -> int:
        """Latent channels C."""

    @property
    def spatial_compression(self) -> int:
        """Pixels a latent cell covers, along height and width."""

    def encode_groups(self, frames: Float[Array, "*batch R H W 3"]) -> Float[Array, "*batch h w C"]:
        """One latent a group of R frames."""

    def decode_groups(self, latents: Float[Array, "*batch h w C"]) -> Float[Array, "*batch R H W 3"]:
        """The groups of R frames."""


def encode_video(
    codec: VideoCodec, frames: UInt8[Array, "B T V H W 3"] | Float[Array, "B T V H W 3"]
) -> Float[Array, "B F V h w C"]:
    """T = 1 + R N frames -> F = 1 + N latents, fp32. The first frame is repeated to fill the first group, so that
    latent 0 is of frame 0 alone, and latent f >= 1 of the frames R (f - 1) + 1 to R f.

    Args:
        frames: 0..255 as uint8, or floats in [-1, 1].

    Raises:
        InputError: a number of frames that is not 1 + R N, or a picture that the codec's cells do not divide.
    """
    count = codec.group
    if frames.shape[1] % count != 1:
        raise InputError("frames", f"{frames.shape[1]} frames", f"1 + {count} N")
    if frames.dtype == jnp.uint8:
        frames = frames.astype(jnp.float32) / 127.5 - 1.0
    first, rest = jnp.split(frames, [1], axis=1)
    filled = jnp.concatenate([jnp.repeat(first, count, axis=1), rest], axis=1)
    groups = filled.reshape(len(filled), -1, count, *filled.shape[2:])
    return codec.encode_groups(jnp.moveaxis(groups, 2, 3))


def decode_video(codec: VideoCodec, latents: Float[Array, "B F V h w C"]) -> Float[Array, "B T V H W 3"]:
    """F = 1 + N latents -> T = 1 + R N frames, floats in about [-1, 1]; frame 0 is the mean of the first group."""
    groups = jnp.moveaxis(codec.decode_groups(latents), 3, 2)
    first = jnp.mean(groups[:, :1], axis=2)
    rest = groups[:, 1:]
    return jnp.concatenate([first, rest.reshape(len(rest), -1, *rest.shape[3:])], axis=1)


@functools.cache
def haar_basis(levels: int) -> np.ndarray:
    """Orthonormal Haar analysis rows `[2^levels, 2^levels]`, coarsest first, in one dimension."""
    basis = np.ones((1, 1))
    for _ in range(levels):
        low = np.kron(basis, [1.0, 1.0])
        high = np.kron(np.eye(len(basis)), [1.0, -1.0])
        basis = np.concatenate([low, high]) / np.sqrt(2.0)
    return basis


@functools.cache
def haar_basis_2d(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal square Haar analysis rows `[4^levels, 2^levels * 2^levels]`, coarsest first, and each row's level of
    detail (0: the mean, 1: the coarsest details, ...)."""
    basis, detail = np.ones((1, 1, 1)), np.zeros(1, int)
    for level in range(levels):
        size = len(basis[0])
        low = np.kron(basis, np.ones((1, 2, 2)))
        cells = np.eye(size * size).reshape(-1, size, size)
        patterns = ([[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]])
        high = np.concatenate([np.kron(cells, np.array([pattern])) for pattern in patterns])
        basis = np.concatenate([low, high]) / 2.0
        detail = np.concatenate([detail, np.full(len(high), level + 1)])
    return basis.reshape(len(basis), -1), detail


@dataclasses.dataclass(frozen=True)
class HaarCodec:
    """Orthonormal 3-D Haar transform of 4 frames x 2^levels x 2^levels pixels, each band scaled by a constant.

    With every band kept the codec is exactly invertible. `kept_spatial` and `kept_temporal` keep only that many of the
    coarsest bands (lossy: decode(encode(x)) is then the orthogonal projection of x on the kept bands).

    Attributes:
      spatial_levels: compression is 2^levels along height and width.
      temporal_levels: 2, four frames a latent.
      kept_spatial: of 4^levels spatial bands (None: all).
      kept_temporal: of 4 temporal bands (None: all).
      gain: factor on all bands. It decides how much noise a frame survives: what moves must not drown at t near 0.
      detail_gain: factor on each finer level of spatial detail, which natural images fill less.
    """

    spatial_levels: int = 3
    temporal_levels: int = 2
    kept_spatial: int | None = None
    kept_temporal: int | None = None
    gain: float = 1.0
    detail_gain: float = 1.5

    def __post_init__(self):
        for field, bands in (("kept_spatial", 4**self.spatial_levels), ("kept_temporal", self.group)):
            kept = getattr(self, field)
            if kept is not None and not 1 <= kept <= bands:
                raise InputError(f"HaarCodec.{field}", kept, f"1 to {bands}, or None for all")

    @property
    def group(self) -> int:
        """R: frames a latent."""
        return 2**self.temporal_levels

    @property
    def spatial_compression(self) -> int:
        return 2**self.spatial_levels

    @property
    def channels(self) -> int:
        return 3 * (self.kept_spatial or 4**self.spatial_levels) * (self.kept_temporal or self.group)

    def _blocks(self) -> tuple[int, int]:
        """Sides, in frames and pixels, of the largest blocks on which all kept bands are constant."""
        frames, pixels = 1, 1
        while (self.kept_temporal or self.group) <= self.group // (2 * frames):
            frames *= 2
        while (self.kept_spatial or 4**self.spatial_levels) <= 4**self.spatial_levels // (2 * pixels) ** 2:
            pixels *= 2
        return frames, pixels

    def _matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Analysis and synthesis `[R * pixels, bands]`; their product over the bands is the projection."""
        spatial, detail = haar_basis_2d(self.spatial_levels)
        spatial, detail = spatial[: self.kept_spatial], detail[: self.kept_spatial]
        temporal = haar_basis(self.temporal_levels)[: self.kept_temporal]
        basis = np.kron(temporal, spatial)
        # At gain 1 a frame's mean becomes twice the mean: pixels in [-1, 1] have a standard deviation of about 0.5.
        mean = 2.0 * self.gain / np.sqrt(self.group * 4**self.spatial_levels)
        gain = np.tile(mean * self.detail_gain**detail, len(temporal))
        return (basis * gain[:, None]).T.astype(np.float32), (basis / gain[:, None]).T.astype(np.float32)

    def encode_groups(self, frames: Float[Array, "*batch R H W 3"]) -> Float[Array, "*batch h w C"]:
        *batch, group, height, width, colours = frames.shape
        side = self.spatial_compression
        if group != self.group or height % side or width % side:
            raise InputError("frames", f"groups {frames.shape[-4:]}", f"{self.group} frames, sides divisible by {side}")
        # Rows of the kept bands are constant on blocks: summing the blocks first leaves less to transpose and multiply.
        frame_block, pixel_block = self._blocks()
        for axis, block in ((-4, frame_block), (-3, pixel_block), (-2, pixel_block)):
            frames = _block_sums(frames, axis, block)
        group, inner = group // frame_block, side // pixel_block
        cells = frames.reshape(-1, group, height // side, inner, width // side, inner, colours)
        cells = cells.transpose(0, 2, 4, 6, 1, 3, 5).reshape(-1, group * inner * inner)
        analysis = self._matrices()[0].reshape(self.group, side, side, -1)
        analysis = analysis[::frame_block, ::pixel_block, ::pixel_block]
        latents = cells @ analysis.reshape(group * inner * inner, -1)
        return latents.reshape(*batch, height // side, width // side, self.channels)

    def decode_groups(self, latents: Float[Array, "*batch h w C"]) -> Float[Array, "*batch R H W 3"]:
        *batch, rows, columns, channels = latents.shape
        side = self.spatial_compression
        cells = latents.reshape(-1, channels // 3) @ self._matrices()[1].T
        cells = cells.reshape(-1, rows, columns, 3, self.group, side, side).transpose(0, 4, 1, 5, 2, 6, 3)
        return cells.reshape(*batch, self.group, rows * side, columns * side, 3)


def _block_sums(values: Array, axis: int, block: int) -> Array:
    """Sums of `block` neighbours along a negative `axis`; a sum of slices fuses with what comes before."""
    after = (slice(None),) * (-axis - 1)
    return sum(values[(..., slice(i, None, block), *after)] for i in range(block))
