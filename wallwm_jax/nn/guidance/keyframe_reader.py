"""What the caption asks of the keyframe: where the things are that it names.

A few convolutions over the pictures, and the caption itself asks: each view's queries attend over cells much finer
than a patch of the video tower and return the places that they found.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from wallwm_jax.nn.layers import Linear, layer_norm, neighbourhoods
from wallwm_jax.nn.parameters import normal, parameter

WIDTH = 32
"""Of queries and keys."""
CYCLES = (0.25, 0.5, 1.0, 2.0)
"""Cycles an image of a place's sines and cosines."""


class Asked(NamedTuple):
    """What is read of N events."""

    pictures: Float[Array, "N V H W 3"]
    """Pixels in [-1, 1]."""
    view_mask: Bool[Array, "N V"]
    text: Float[Array, "N L text_embed"]
    text_mask: Bool[Array, "N L"]


class Reading(NamedTuple):
    """What the caption found in the pictures of N events."""

    found: Float[Array, "N V query place"]
    """Mean place of what every query looked at: row and column in [-1, 1], and their sines and cosines; 0 in an absent
    view."""
    caption: Float[Array, "N head_dim"]
    logits: Float[Array, "N V query h w"]
    """Of the cells that a query may look at, fp32."""


class KeyframeReader(nn.Module):
    """Strided convolutions over every view, and queries from the caption that attend over their cells.

    Attributes:
      sizes: must give text_embed, view (the most views that pictures may have), query (reads a view).
      widths: channels of every convolution; each halves the picture's side.
    """

    sizes: Mapping[str, int]
    widths: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, asked: Asked) -> Reading:
        """An absent view finds nothing; without a caption the queries are the same for every event."""
        cells = self._cells(asked.pictures)
        rows, columns = cells.shape[2:4]
        cells = cells.reshape(*cells.shape[:2], rows * columns, -1)
        caption = self._caption(asked.text, asked.text_mask)
        query = self._queries(caption)[:, : cells.shape[1]]
        key = self._by_view("key", cells)
        scores = (jnp.einsum("nvmd,nvcd->nvmc", query, key) * query.shape[-1] ** -0.5).astype(jnp.float32)
        found = jnp.einsum("nvmc,cd->nvmd", jax.nn.softmax(scores, -1), _places(rows, columns))
        found = jnp.where(asked.view_mask[..., None, None], found, 0.0)
        return Reading(found, caption, scores.reshape(*scores.shape[:3], rows, columns))

    def _cells(self, pictures: Array) -> Float[Array, "N V h w stem"]:
        """Normalised features of every cell, fp32."""
        x = pictures.reshape(-1, *pictures.shape[2:]).astype(self.dtype)
        for index, width in enumerate(self.widths):
            windows = neighbourhoods(x, 2)
            sizes = {"window": windows.shape[-1], "stem": width}
            x = nn.gelu(Linear("window -> stem @adamw", sizes, dtype=self.dtype, name=f"convolution{index}")(windows))
        return layer_norm(x).reshape(*pictures.shape[:2], *x.shape[1:])

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
        return jnp.einsum("nvcs,svd->nvcd", cells, weight[:, : cells.shape[1]])


class ReadingEmbedding(nn.Module):
    """A reading as one vector an event, all views together.

    Attributes:
      axis: the name of the vector's axis.
      sizes: must give it, view, query.
    """

    axis: str
    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, reading: Reading) -> Float[Array, "N width"]:
        axis, found, caption = self.axis, reading.found, reading.caption
        sizes = {**self.sizes, "window": found.shape[-1], "head_dim": caption.shape[-1]}
        # A view that the pictures do not have is one that is absent.
        found = jnp.pad(found, [(0, 0), (0, sizes["view"] - found.shape[1]), (0, 0), (0, 0)])
        hidden = Linear(f"view query window -> {axis} @adamw", sizes, dtype=self.dtype, name="hidden")(found)
        hidden = hidden + Linear(f"head_dim -> {axis} @adamw", sizes, bias=None, name="asked")(caption)
        return Linear(f"{axis} -> {axis} @adamw", sizes, dtype=self.dtype, name="output")(nn.gelu(hidden))


def _places(rows: int, columns: int) -> Float[Array, "cells place"]:
    """A cell's row and column in [-1, 1], and their sines and cosines."""
    axes = ((jnp.arange(count) + 0.5) / count * 2.0 - 1.0 for count in (rows, columns))
    place = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(rows * columns, 2)
    angles = jnp.pi * (place[..., None] * jnp.array(CYCLES)).reshape(rows * columns, -1)
    return jnp.concatenate([place, jnp.cos(angles), jnp.sin(angles)], -1)
