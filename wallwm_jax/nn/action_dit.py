"""The action diffusion transformer, coupled one way to the video tower's features (WALL-WM section 4, eqs. 9-11).

Tokens are `[B, K, A, action_embed]`: K noise draws share a row's state and video features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.nn.activations import exchange, joined
from wallwm_jax.nn.attention import AttentionMask, Heads, attend
from wallwm_jax.nn.keyframe_reader import KeyframeReader, ReadingEmbedding
from wallwm_jax.nn.layers import (
    GatedFeedForward,
    Linear,
    TimeModulation,
    gather_segments,
    layer_norm,
    modulate,
    sinusoid,
)
from wallwm_jax.nn.parameters import normal, parameter, zeros
from wallwm_jax.nn.positions import Rotation
from wallwm_jax.nn.remat import branch
from wallwm_jax.nn.video_dit import SelfAttention

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
    video_position: Float[Array, "B F V n embed"]
    """E_tau + E_abs + place, added to every layer's features."""
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


class ActionTower(nn.Module):
    """What surrounds the action blocks: action, state, time and position embeddings, the keyframe reader, the head.

    Attributes:
      sizes: must give action_embed, embed (video), dof (26), frequency, modulation, position (latent frames), view.
      reader: channels of the keyframe reader's convolutions; none: no reader.
    """

    sizes: Mapping[str, int]
    reader: Sequence[int] = ()
    dtype: Any = jnp.float32

    def setup(self):
        sizes = dict(self.sizes)
        masked = {**sizes, "dof": 2 * sizes["dof"]}
        self.input = Linear("dof -> action_embed @adamw", masked, dtype=self.dtype)
        self.state = Linear("dof -> action_embed @adamw", masked, dtype=self.dtype)
        if self.reader:
            self.keyframe_reader = KeyframeReader(sizes, tuple(self.reader), self.dtype)
            self.found = ReadingEmbedding("action_embed", sizes, self.dtype)
        self.time = TimeModulation("action_embed", sizes)
        self.frame = parameter(self, "frame", "[position] action_embed", sizes, normal(0.02))
        self.clock = Linear("frequency -> action_embed @adamw", sizes, bias=None)
        self.video_frame = parameter(self, "video_frame", "[position] embed", sizes, normal(0.02))
        self.video_clock = Linear("frequency -> embed @adamw", sizes, bias=None)
        self.video_place = parameter(self, "video_place", "view frequency -> embed @adamw", sizes)
        two = {**sizes, "modulation": 2}
        self.head_modulation = parameter(
            self, "head_modulation", "[modulation] action_embed", two, normal(sizes["action_embed"] ** -0.5)
        )
        self.head = Linear("action_embed -> dof @adamw", sizes, zeros)

    def embed(
        self,
        noisy: Float[Array, "B K A 26"],
        dof_mask: Bool[Array, "B A 26"],
        frames: Int[Array, "B A"],
        seconds: Float[Array, "B A"],
    ) -> Float[Array, "B K A action_embed"]:
        """Action tokens; masked degrees of freedom are blanked. `frames` are rows of tau (`positions.from_anchor`),
        `seconds` t_abs."""
        shown = jnp.broadcast_to(dof_mask[:, None], noisy.shape)
        tokens = self.input(jnp.concatenate([jnp.where(shown, noisy, 0.0), shown.astype(noisy.dtype)], -1))
        position = self.frame[frames] + self.clock(self._seconds(seconds))
        return (tokens + position[:, None]).astype(self.dtype)

    def embed_state(
        self, state: Float[Array, "B S 26"], dof_mask: Bool[Array, "B S 26"]
    ) -> Float[Array, "B S action_embed"]:
        """The state tokens, at the anchor."""
        inputs = jnp.concatenate([jnp.where(dof_mask, state, 0.0), dof_mask.astype(state.dtype)], -1)
        return self.state(inputs) + self.frame[0]

    def video_positions(
        self, frames: Int[Array, "B F"], seconds: Float[Array, "B F"], grid: tuple[int, int]
    ) -> Float[Array, "B F V n embed"]:
        """E_tau + E_abs of the video tokens, and each view's map of the patch's place in the image.

        The place is ours: features of a rotary tower do not say where in the image they were, and a pose needs it.
        """
        moment = self.video_frame[frames] + self.video_clock(self._seconds(seconds))
        place = jnp.einsum("nf,vfe->vne", _place_features(grid, self.sizes["frequency"]), self.video_place)
        # Only one view's rows of the matrix meet a token: undo the fan-in over all views.
        return moment[:, :, None, None] + place * self.sizes["view"] ** 0.5

    def _seconds(self, seconds: Array) -> Array:
        return sinusoid(seconds, self.sizes["frequency"], longest=1000.0, scale=10.0)

    def modulations(
        self, time: Float[Array, "B K S"], segments: Int[Array, "B A"]
    ) -> tuple[Float[Array, "B K A action_embed"], Float[Array, "B K A modulation action_embed"]]:
        """Each action token's time embedding and AdaLN numbers; fp32."""
        rows, draws, _ = time.shape
        ids = jnp.repeat(segments, draws, axis=0)
        parts = self.time(time.reshape(rows * draws, -1))
        return tuple(gather_segments(part, ids).reshape(rows, draws, -1, *part.shape[2:]) for part in parts)

    def predict(
        self, x: Float[Array, "B K A action_embed"], time: Float[Array, "B K A action_embed"]
    ) -> Float[Array, "B K A 26"]:
        """The head: AdaLN and a linear map that starts at zero; fp32."""
        shift, scale = (time + row for row in self.head_modulation)
        return self.head(modulate(x, shift, scale))


def _place_features(grid: tuple[int, int], count: int) -> Float[Array, "n count"]:
    """Sines and cosines of a patch centre's row and column in [0, 1], at 1/4, 1/2, ... cycles an image."""
    rows, columns = grid
    y, x = jnp.meshgrid((jnp.arange(rows) + 0.5) / rows, (jnp.arange(columns) + 0.5) / columns, indexing="ij")
    cycles = jnp.pi / 2 * 2.0 ** (jnp.arange(count // 4) % 8)
    angles = jnp.stack([y.reshape(-1, 1) * cycles, x.reshape(-1, 1) * cycles], -1).reshape(rows * columns, -1)
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.pad(features, ((0, 0), (0, count - features.shape[-1])))
