"""One block of the action tower, coupled one way to the paired video block's features (WALL-WM section 4, eq. 9).

Tokens are `[B, K, A, action_embed]`: K noise draws share a row's state and video features.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from wallwm_jax.nn.activations import exchange, joined
from wallwm_jax.nn.attention import AttentionMask, Heads, SelfAttention, attend
from wallwm_jax.nn.layers import GatedFeedForward, Linear, gather_segments, layer_norm, modulate
from wallwm_jax.nn.parameters import normal, parameter
from wallwm_jax.nn.positions import Rotation
from wallwm_jax.nn.remat import branch

ACTION_MODULATIONS = 9
"""Shift, scale and gate of self-attention, video cross-attention and the feed-forward network."""


class ActionContext(NamedTuple):
    """What every action block reads; the same for all layers. Batch axes are joined (`nn.activations`)."""

    modulation: Float[Array, "B K A modulation action_embed"]
    rotation: Rotation
    """`[B K, A, 1, pairs]`."""
    mask: AttentionMask
    """Self-attention, batch axes B K."""
    state: Float[Array, "B S action_embed"]
    segments: Int[Array, "B A"]
    video_position: Float[Array, "B F #V #n embed"]
    """E_tau and what guidance adds, added to every layer's features."""
    video_mask: AttentionMask
    """`K * A` queries over `F * V * n` keys, batch axis B."""


class VideoAttention(nn.Module):
    """Cross-attention to the paired video block: K/V = ViewConcat(features) + E_tau + E_abs (eq. 9)."""

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *q action_embed"], features: Float[Array, "B F V n embed"], context: ActionContext
    ) -> Float[Array, "B *q action_embed"]:
        # Features are a residual stream, whose scale grows with depth: normalised before the positions are added.
        source = (layer_norm(features) + context.video_position).astype(self.dtype)
        source = source.reshape(source.shape[0], -1, source.shape[-1])
        query = Heads("action_embed", self.sizes, norm=True, dtype=self.dtype, name="query")(x)
        key = Heads("embed", self.sizes, norm=True, dtype=self.dtype, name="key")(source)
        value = Heads("embed", self.sizes, dtype=self.dtype, name="value")(source)
        outside, inside = "rows draws steps heads head_dim", "rows draws attended heads head_dim"
        query = exchange(query, outside, inside)
        sources = "rows tokens heads head_dim", "rows attended heads head_dim"
        key, value = (exchange(part, *sources) for part in (key, value))
        # All draws read the same keys: one product.
        mixed = attend(query.reshape(len(query), -1, *query.shape[-2:]), key, value, context.video_mask)
        mixed = exchange(mixed.reshape(query.shape), inside, outside)
        return Linear("heads head_dim -> action_embed", self.sizes, dtype=self.dtype, name="output")(mixed)


class StateAttention(nn.Module):
    """Cross-attention to the event's state token alone. A softmax over one key is 1, so that the branch is its value
    and output projections; query and key would have no gradient."""

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, state: Float[Array, "B S action_embed"]) -> Float[Array, "B S action_embed"]:
        value = Heads("action_embed", self.sizes, dtype=self.dtype, name="value")(layer_norm(state))
        return Linear("heads head_dim -> action_embed", self.sizes, dtype=self.dtype, name="output")(value)


class ActionBlock(nn.Module):
    """Self-attention, state cross-attention, video cross-attention and a gated feed-forward network."""

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B K A action_embed"], features: Float[Array, "B F V n embed"], context: ActionContext
    ) -> Float[Array, "B K A action_embed"]:
        sizes, dtype = self.sizes, self.dtype
        rows, draws, steps, width = x.shape
        table = parameter(self, "modulation", "[modulation] action_embed", sizes, normal(width**-0.5))
        chosen = jnp.split(context.modulation + table, ACTION_MODULATIONS, 3)
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = (part[:, :, :, 0] for part in chosen)

        inner = modulate(x, shift1, scale1).astype(dtype).reshape(*joined(rows, draws), steps, width)
        attention = SelfAttention("action_embed", sizes, "rows draws", dtype=dtype, name="self")
        x = x + gate1 * branch(attention(inner, context.rotation, context.mask).reshape(x.shape))
        state = StateAttention(sizes, dtype, name="state")(context.state)
        x = (x + gather_segments(state, context.segments)[:, None]).astype(dtype)

        inner = modulate(x, shift2, scale2).astype(dtype).reshape(rows, *joined(draws, steps), width)
        mixed = VideoAttention(sizes, dtype, name="video")(inner, features, context)
        x = (x + gate2 * branch(mixed.reshape(x.shape))).astype(dtype)
        inner = modulate(x, shift3, scale3).astype(dtype)
        added = branch(GatedFeedForward("action_embed", sizes, dtype=dtype, name="mlp")(inner))
        return (x + gate3 * added).astype(dtype)
