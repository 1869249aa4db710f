"""The painter: a first picture of the frames to come, put together from the current one and the waypoints.

Ours, not the paper's. Most of what an event changes in a picture is that an arm, and what it holds, is elsewhere: cut
it out, put it where the waypoints say, fill the hole (as CDNA moves pixels, arXiv 1605.07157). A convolution learns
that from every cell of every picture, thousands a step; the diffusion transformer starts from what it paints.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from wallwm_jax.nn.layers import Linear, neighbourhoods
from wallwm_jax.nn.parameters import zeros

WIDTH = 64
DEPTH = 3
"""Convolutions over 3 x 3 cells: what is filled in is known from up to three cells away."""


class Painter(nn.Module):
    """Convolutions over latent cells. Untrained it paints the current picture.

    Attributes:
      sizes: must give view.
    """

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        anchor: Float[Array, "B F V h w C"],
        moved: Float[Array, "B F V h w arm C"],
        maps: Float[Array, "B F V h w maps"],
    ) -> Float[Array, "B F V h w C"]:
        """Latents of each slot: how much of the anchor's cell is gone, how much of what moved with an arm is here, and
        what neither shows."""
        *batch, height, width, arms, channels = moved.shape
        grid = (-1, height, width)
        seen = jnp.concatenate([anchor, moved.reshape(*batch, height, width, -1), maps], -1)
        sizes = {**self.sizes, "window": seen.shape[-1], "stem": WIDTH, "output": 1 + arms + channels}
        x = Linear("window -> stem", sizes, dtype=self.dtype, name="cells")(seen)
        # Each camera's table looks different.
        cameras = Linear("view -> stem @adamw", sizes, bias=None, name="camera")(jnp.eye(sizes["view"]))
        x = nn.gelu(x + cameras[: moved.shape[2], None, None])
        for index in range(DEPTH):
            windows = neighbourhoods(x.reshape(*grid, WIDTH), 1)
            sizes = {**sizes, "window": windows.shape[-1]}
            inner = Linear("window -> stem", sizes, dtype=self.dtype, name=f"convolution{index}")(windows)
            x = x + nn.gelu(inner).reshape(x.shape)
        values = Linear("stem -> output @adamw", sizes, zeros, name="output")(x).astype(jnp.float32)
        gone, here, change = jnp.split(values, (1, 1 + arms), -1)
        return (1.0 - gone) * anchor + jnp.einsum("...a,...ac->...c", here, moved) + change
