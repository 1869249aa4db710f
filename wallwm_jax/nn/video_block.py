"""One block of the video tower: Wan's block plus cross-view attention (WALL-WM section 3, eq. 1).

Tokens are `[B, F, V, n, embed]` with n = patch rows x patch columns.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from wallwm_jax.nn.activations import exchange, joined
from wallwm_jax.nn.attention import AttentionMask, Heads, SelfAttention, attend
from wallwm_jax.nn.layers import FeedForward, LayerNorm, Linear, gather_segments, modulate
from wallwm_jax.nn.parameters import normal, parameter
from wallwm_jax.nn.positions import Rotation
from wallwm_jax.nn.remat import branch

VIDEO_MODULATIONS = 9
"""Shift, scale and gate of within-view attention, cross-view attention and the feed-forward network."""


class VideoContext(NamedTuple):
    """What every video block reads; the same for all layers. Batch axes are joined (`nn.activations`)."""

    modulation: Float[Array, "B F modulation embed"]
    within_view_rotation: Rotation
    """`[B, F * n, 1, pairs]`."""
    within_view_mask: AttentionMask
    """Batch axes B V."""
    cross_view_rotation: Rotation
    """`[B F, V * n, 1, pairs]`."""
    cross_view_mask: AttentionMask
    """Batch axes B F."""
    text: Float[Array, "B S L embed"]
    text_segments: Int[Array, "B F"]
    """The segment whose caption a slot reads; ids from 1, 0 for none."""
    text_mask: AttentionMask
    """Batch axes B F, one query row for all of a slot's tokens."""


class TextAttention(nn.Module):
    """Cross-attention of a slot's tokens to its own event's caption; exactly zero for an event without text."""

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b q embed"], context: VideoContext) -> Float[Array, "*b q embed"]:
        query = Heads("embed", self.sizes, norm=True, dtype=self.dtype, name="query")(x)
        key = Heads("embed", self.sizes, norm=True, dtype=self.dtype, name="key")(context.text)
        value = Heads("embed", self.sizes, dtype=self.dtype, name="value")(context.text)
        key, value = (gather_segments(part, context.text_segments) for part in (key, value))
        key, value = (part.reshape(*joined(*part.shape[:2]), *part.shape[2:]) for part in (key, value))
        query = exchange(query, "rows slots tokens heads head_dim")
        key, value = (exchange(part, "rows slots letters heads head_dim") for part in (key, value))
        mixed = attend(query, key, value, context.text_mask)
        output = Linear("heads head_dim -> embed", self.sizes, dtype=self.dtype, name="output")(mixed)
        return jnp.where(context.text_mask.rows[..., 0], output, jnp.zeros_like(output))


class VideoBlock(nn.Module):
    """Within-view attention, cross-view attention, text cross-attention and a feed-forward network (eq. 1)."""

    sizes: Mapping[str, int]
    cross_view: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B F V n embed"], context: VideoContext) -> Float[Array, "B F V n embed"]:
        sizes, dtype = self.sizes, self.dtype
        rows, slots, views, patches, width = x.shape
        table = parameter(self, "modulation", "[modulation] embed", sizes, normal(width**-0.5))
        chosen = jnp.split(context.modulation[:, :, :, None, None] + table[:, None, None], VIDEO_MODULATIONS, 2)
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = (part[:, :, 0] for part in chosen)

        by_view = (*joined(rows, views), slots * patches)
        inner = modulate(x, shift1, scale1).astype(dtype).swapaxes(1, 2).reshape(*by_view, width)
        turn = Rotation(
            *(jnp.repeat(part, views, axis=0).reshape(*by_view, 1, -1) for part in context.within_view_rotation)
        )
        attention = SelfAttention("embed", sizes, "rows views", dtype=dtype, name="within_view")
        mixed = attention(inner, turn, context.within_view_mask)
        mixed = mixed.reshape(rows, views, slots, patches, width).swapaxes(1, 2)
        x = (x + gate1 * branch(mixed)).astype(dtype)

        by_slot = (*joined(rows, slots), views * patches, width)
        if self.cross_view:
            inner = modulate(x, shift2, scale2).astype(dtype).reshape(by_slot)
            attention = SelfAttention("embed", sizes, "rows slots", identity=True, dtype=dtype, name="cross_view")
            mixed = attention(inner, context.cross_view_rotation, context.cross_view_mask)
            x = (x + gate2 * branch(mixed.reshape(x.shape))).astype(dtype)

        inner = LayerNorm("embed", sizes, name="text_norm")(x).astype(dtype).reshape(by_slot)
        x = x + branch(TextAttention(sizes, dtype, name="text")(inner, context).reshape(x.shape))
        inner = modulate(x, shift3, scale3).astype(dtype)
        return (x + gate3 * branch(FeedForward("embed", sizes, dtype, name="mlp")(inner))).astype(dtype)
