"""What the caption asks of the keyframe: where the things are that it names.

A few convolutions over the pictures, and the caption itself asks: each view's queries attend over cells much finer
than a patch of the video tower and return the places that they found.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from wallwm_jax.nn.layers import Linear, layer_norm
from wallwm_jax.nn.parameters import normal, parameter

WIDTH = 32
"""Of queries and keys."""
WINDOW = 3
"""Side of a convolution's window; its stride is 2."""
CYCLES = (0.25, 0.5, 1.0, 2.0)
"""Cycles an image of a place's sines and cosines."""


class KeyframeReader(nn.Module):
    """Strided convolutions over every view, and queries from the caption that attend over their cells.

    Attributes:
      sizes: must give action_embed, text_embed, view, query (reads a view).
      widths: channels of every convolution; each halves the picture's side.
    """

    sizes: Mapping[str, int]
    widths: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        pictures: Float[Array, "N V H W 3"],
        view_mask: Bool[Array, "N V"],
        text: Float[Array, "N L text_embed"],
        text_mask: Bool[Array, "N L"],
    ) -> Float[Array, "N action_embed"]:
        """What was found, all views together; pixels in [-1, 1]. An absent view finds nothing; without a caption the
        queries are the same for every event."""
        cells, places = self._cells(pictures)
        caption = self._caption(text, text_mask)
        query = self._queries(caption)
        key = self._by_view("key", cells)
        scores = jnp.einsum("nvmd,nvcd->nvmc", query, key) * query.shape[-1] ** -0.5
        found = jnp.einsum("nvmc,cd->nvmd", jax.nn.softmax(scores.astype(jnp.float32), -1), places)
        found = jnp.where(view_mask[..., None, None], found, 0.0)
        sizes = {**self.sizes, "window": found.shape[-1], "head_dim": WIDTH}
        hidden = Linear("view query window -> action_embed @adamw", sizes, dtype=self.dtype, name="hidden")(found)
        hidden = hidden + Linear("head_dim -> action_embed @adamw", sizes, bias=None, name="asked")(caption)
        hidden = nn.gelu(hidden)
        return Linear("action_embed -> action_embed @adamw", sizes, dtype=self.dtype, name="output")(hidden)

    def _cells(self, pictures: Array) -> tuple[Float[Array, "N V cells stem"], Float[Array, "cells place"]]:
        """Normalised features of every cell, and its place in the picture; fp32."""
        x = pictures.reshape(-1, *pictures.shape[2:]).astype(self.dtype)
        for index, width in enumerate(self.widths):
            windows = _windows(x)
            sizes = {"window": windows.shape[-1], "stem": width}
            x = nn.gelu(Linear("window -> stem @adamw", sizes, dtype=self.dtype, name=f"convolution{index}")(windows))
        _, rows, columns, width = x.shape
        return layer_norm(x).reshape(*pictures.shape[:2], rows * columns, width), _places(rows, columns)

    def _caption(self, text: Array, text_mask: Array) -> Float[Array, "N head_dim"]:
        """What the caption says, each number from the token that says it loudest; 0 without a caption. A mean over the
        tokens, most of which name neither thing nor verb, needs several times as many events to be told apart."""
        sizes = {**self.sizes, "head_dim": WIDTH}
        said = Linear("text_embed -> head_dim @adamw", sizes, name="caption")(layer_norm(text))
        loudest = jnp.max(said, 1, initial=jnp.finfo(said.dtype).min, where=text_mask[..., None])
        return jnp.where(jnp.any(text_mask, 1)[:, None], loudest, 0.0)

    def _queries(self, caption: Float[Array, "N head_dim"]) -> Float[Array, "N V query head_dim"]:
        """Each view's queries: learned ones, moved by what the caption says."""
        sizes = {**self.sizes, "window": WIDTH, "head_dim": WIDTH}
        asked = Linear("window -> view query head_dim @adamw", sizes, bias=None, name="query")(caption)
        return asked + parameter(self, "question", "[view query] head_dim", sizes, normal(1.0))

    def _by_view(self, name: str, cells: Array) -> Float[Array, "N V cells head_dim"]:
        """A linear map of its own for every view: a thing looks different from every camera."""
        sizes = {**self.sizes, "stem": cells.shape[-1], "head_dim": WIDTH}
        weight = parameter(self, name, "stem -> view head_dim @adamw", sizes)
        return jnp.einsum("nvcs,svd->nvcd", cells, weight)


def _windows(x: Float[Array, "N H W C"]) -> Float[Array, "N h w values"]:
    """The 3 x 3 neighbourhoods of every second pixel, zero outside the picture."""
    x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1] - WINDOW + 1, x.shape[2] - WINDOW + 1
    # Slices and one matrix product: XLA's CPU backend has no fast path for a strided convolution's gradients.
    parts = [x[:, i : i + height : 2, j : j + width : 2] for i in range(WINDOW) for j in range(WINDOW)]
    return jnp.concatenate(parts, -1)


def _places(rows: int, columns: int) -> Float[Array, "cells place"]:
    """A cell's row and column in [-1, 1], and their sines and cosines."""
    axes = ((jnp.arange(count) + 0.5) / count * 2.0 - 1.0 for count in (rows, columns))
    place = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(rows * columns, 2)
    angles = jnp.pi * (place[..., None] * jnp.array(CYCLES)).reshape(rows * columns, -1)
    return jnp.concatenate([place, jnp.cos(angles), jnp.sin(angles)], -1)
