"""The multi-view video diffusion transformer: Wan's block plus cross-view attention (WALL-WM section 3, eq. 1).

Tokens are `[B, F, V, n, embed]` with n = patch rows x patch columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.nn.activations import exchange, joined
from wallwm_jax.nn.attention import AttentionMask, Heads, attend
from wallwm_jax.nn.layers import FeedForward, LayerNorm, Linear, TimeModulation, gather_segments, layer_norm, modulate
from wallwm_jax.nn.painter import Painter
from wallwm_jax.nn.parameters import normal, parameter, zeros
from wallwm_jax.nn.positions import Rotation, rotate
from wallwm_jax.nn.remat import branch
from wallwm_jax.nn.waypoints import Sketch, WaypointHead

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


class SelfAttention(nn.Module):
    """Multi-head self-attention with QK RMS norm and rotary positions, over tokens `[*batch, q, width]`.

    Attributes:
      axis: the width's name.
      sizes: must give `axis`, heads and head_dim.
      batch: the names of the batch axes (`nn.activations`). If none of them has it, the mesh's `sequence` splits tokens
        outside and heads inside of attention: two all-to-alls between devices.
      identity: the output projection starts as zeros, for a branch that starts as the identity.
    """

    axis: str
    sizes: Mapping[str, int]
    batch: str
    identity: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch q width"], turn: Rotation, mask: AttentionMask
    ) -> Float[Array, "*batch q width"]:
        query = Heads(self.axis, self.sizes, norm=True, dtype=self.dtype, name="query")(x)
        key = Heads(self.axis, self.sizes, norm=True, dtype=self.dtype, name="key")(x)
        value = Heads(self.axis, self.sizes, dtype=self.dtype, name="value")(x)
        outside, inside = (f"{self.batch} {tokens} heads head_dim" for tokens in ("tokens", "attended"))
        parts = rotate(query, turn), rotate(key, turn), value
        mixed = exchange(attend(*(exchange(part, outside, inside) for part in parts), mask), inside, outside)
        declaration, init = f"heads head_dim -> {self.axis}", zeros if self.identity else None
        return Linear(declaration, self.sizes, init, dtype=self.dtype, name="output")(mixed)


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


class VideoTower(nn.Module):
    """What surrounds the video blocks: patch embedding, time, caption projection, camera angles and the head.

    Attributes:
      sizes: must give embed, patch (latent values of a patch), frequency, modulation, text_embed, view, view_rotation.
      channels: latent channels C.
      patch: patch side in latent cells.
      predicted: values that the head gives each latent cell: the latent's channels, and whatever else is asked of it.
      reader: channels of the waypoint head's convolutions; none: no waypoints.
      arms: how many arms have waypoints.
      sketched: values a cell that a sketch adds to the latents.
    """

    sizes: Mapping[str, int]
    channels: int
    patch: int
    predicted: int
    reader: Sequence[int] = ()
    arms: int = 0
    sketched: int = 0
    dtype: Any = jnp.float32

    def setup(self):
        sizes = dict(self.sizes)
        # Conditioning y, its indicator and the waypoints' sketch sit beside the noisy latents on the same grid.
        inputs = {**sizes, "patch": self.patch**2 * (2 * self.channels + 1 + self.sketched)}
        if self.reader:
            self.painter = Painter(sizes, self.dtype)
            self.waypoint_head = WaypointHead(sizes, tuple(self.reader), self.arms, self.dtype)
        self.embedding = Linear("patch -> embed @adamw", inputs, dtype=self.dtype)
        self.time = TimeModulation("embed", sizes)
        self.text_first = Linear("text_embed -> embed", sizes, dtype=self.dtype)
        self.text_second = Linear("embed -> embed", sizes, dtype=self.dtype)
        self.view_angles = parameter(self, "view_angles", "[view] view_rotation", sizes, normal(1.0))
        self.head_modulation = parameter(
            self, "head_modulation", "[modulation] embed", {**sizes, "modulation": 2}, normal(sizes["embed"] ** -0.5)
        )
        self.head = Linear("embed -> patch @adamw", {**sizes, "patch": self.patch**2 * self.predicted}, zeros)

    def embed(
        self,
        noisy: Float[Array, "B F V h w C"],
        observed: Float[Array, "B F V h w C"],
        is_observed: Bool[Array, "B F"],
        sketch: Sketch | None,
    ) -> Float[Array, "B F V n embed"]:
        """Patch tokens of the noisy latents, the conditioning y (blank where nothing is observed), its indicator and
        the sketch."""
        indicator = jnp.broadcast_to(is_observed[:, :, None, None, None, None], (*noisy.shape[:-1], 1))
        conditioning = jnp.where(indicator, observed, 0.0)
        sketched = () if sketch is None else sketch
        cells = jnp.concatenate([noisy, conditioning, indicator.astype(noisy.dtype), *sketched], -1)
        return self.embedding(patchify(cells, self.patch))

    def embed_text(self, features: Float[Array, "B S L text_embed"]) -> Float[Array, "B S L embed"]:
        """Captions in the video tower's width (Wan's text embedding)."""
        return self.text_second(nn.gelu(self.text_first(features), approximate=True))

    def modulations(
        self, time: Float[Array, "B S"], segment_ids: Int[Array, "B F"]
    ) -> tuple[Float[Array, "B F embed"], Float[Array, "B F modulation embed"]]:
        """Each slot's time embedding and AdaLN numbers; fp32."""
        return tuple(gather_segments(part, segment_ids) for part in self.time(time))

    def predict(
        self, x: Float[Array, "B F V n embed"], time: Float[Array, "B F embed"], grid: tuple[int, int]
    ) -> Float[Array, "B F V h w predicted"]:
        """The head: AdaLN and a linear map that starts at zero; fp32, as the loss needs it."""
        shift, scale = (time + row for row in self.head_modulation)
        values = self.head(layer_norm(x) * (1.0 + scale[:, :, None, None]) + shift[:, :, None, None])
        return unpatchify(values, grid, self.patch)


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
