"""Waypoints: where in the current pictures the end effectors will be, frame by frame, before any frame is dreamt.

Ours, not the paper's. A tower of a few million parameters that starts from noise learns what an arm looks like long
before it learns where an event takes it, and paints a smear over all the places. Reading the place off the keyframe by
the caption is the smaller problem; the dream then has only to paint what is where the waypoints say.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8

from wallwm_jax.core.types import ARMS, POSITION, EventBatch
from wallwm_jax.nn.guidance.keyframe_reader import Asked, KeyframeReader, ReadingEmbedding
from wallwm_jax.nn.guidance.waypoint_labels import progress_of
from wallwm_jax.nn.layers import Linear, gather_segments
from wallwm_jax.nn.parameters import Initializer, normal

_MOMENT = 8
"""Numbers that say when in its event a frame is."""
_TYPICAL_SPREAD, _LEAST_SPREAD = 0.3, 0.08
"""Of a waypoint, as a share of half the picture's side: untrained; and at least, about half a latent cell."""


class Waypoints(NamedTuple):
    """The places of every raw frame of every slot, in the pictures of the slot's own anchor. In an anchor's slot all
    are the current place; in history nothing is meant to be read."""

    places: Float[Array, "B F R V arm 2"]
    """(row, column) of the effectors, -1 to 1 from edge to edge."""
    spreads: Float[Array, "B F R V arm"]
    """Scale b of a Laplace distribution around the place, in the same unit."""
    looked_at: Float[Array, "B S V query h2 w2"]
    """Logits of the cells that each query of the reader looks at."""


class Sketch(NamedTuple):
    """What waypoints say of the frames to come; all 0 where nothing is to be generated."""

    maps: Float[Array, "B F V h w maps"]
    """Bumps around the waypoints."""
    painted: Float[Array, "B F V h w C"] | None
    """Latents of the painter's picture; None without a painter."""

    @property
    def channels(self) -> Float[Array, "B F V h w guides"]:
        """Everything, as channels beside the latents."""
        return self.maps if self.painted is None else jnp.concatenate([self.maps, self.painted], -1)


class WaypointHead(nn.Module):
    """A keyframe reader, and a small network that takes what it found, the state and the moment to places.

    Attributes:
      sizes: must give embed, text_embed, view, query, dof.
      widths: of the reader's convolutions.
      arms: how many arms have waypoints.
    """

    sizes: Mapping[str, int]
    widths: tuple[int, ...]
    arms: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        asked: Asked,
        state: Float[Array, "B S dof2"],
        segment_ids: Int[Array, "B F"],
        moments: Float[Array, "B F R moment"],
    ) -> Waypoints:
        """`state` holds the masked state and its mask, N is B * S, `moments` those of `moments_of`."""
        reading = KeyframeReader(self.sizes, self.widths, self.dtype, name="keyframe_reader")(asked)
        sizes = {**self.sizes, "dof": state.shape[-1], "frequency": moments.shape[-1], "output": 3 * self.arms}
        found = ReadingEmbedding("embed", sizes, self.dtype, name="found")(reading).reshape(*state.shape[:2], -1)
        known = found + Linear("dof -> embed @adamw", sizes, dtype=self.dtype, name="state")(state)
        when = Linear("frequency -> embed @adamw", sizes, bias=None, dtype=self.dtype, name="moment")(moments)
        hidden = nn.gelu(gather_segments(known, segment_ids)[:, :, None] + when)
        hidden = nn.gelu(Linear("embed -> embed @adamw", sizes, dtype=self.dtype, name="hidden")(hidden))
        weights = Linear("embed -> view output @adamw", sizes, normal(0.02), Initializer(), name="output")(hidden)
        weights = weights[..., : asked.pictures.shape[1], :]
        numbers = weights.reshape(*weights.shape[:-1], self.arms, 3).astype(jnp.float32)
        spreads = _LEAST_SPREAD + (_TYPICAL_SPREAD - _LEAST_SPREAD) * nn.softplus(numbers[..., 2]) / jnp.log(2.0)
        looked_at = reading.logits.reshape(*state.shape[:2], *reading.logits.shape[1:])
        return Waypoints(numbers[..., :2], spreads, looked_at)


def moments_of(batch: EventBatch) -> Float[Array, "B F R moment"]:
    """Smooth functions of `progress_of`."""
    seconds, done = progress_of(batch)
    angles = jnp.pi * done
    waves = [function(turns * angles) for turns in (1, 2) for function in (jnp.cos, jnp.sin)]
    return jnp.stack([done, done**2, *waves, seconds, seconds**2], -1)


def known_arms(batch: EventBatch, arms: Sequence[int]) -> Bool[Array, "B S arm"]:
    """Which of `arms` (0 left, 1 right) an event's robot has: those whose position its state holds."""
    return jnp.stack([batch.dof_mask[..., ARMS[arm]][..., POSITION].all(-1) for arm in arms], -1)


def waypoint_maps(
    waypoints: Waypoints, shown: Bool[Array, "B F V arm"], grid: tuple[int, int]
) -> Float[Array, "B F V h w maps"]:
    """A bump around every waypoint on the latent grid, one map an arm and raw frame; 0 where not `shown`."""
    rows, columns = ((jnp.arange(count) + 0.5) / count * 2.0 - 1.0 for count in grid)
    places, spread = waypoints.places[..., None, None, :], waypoints.spreads[..., None, None]
    distance = jnp.square(rows[:, None] - places[..., 0]) + jnp.square(columns - places[..., 1])
    bumps = jnp.where(shown[:, :, None, ..., None, None], jnp.exp(-0.5 * distance / jnp.square(spread)), 0.0)
    batch, slots, raw, views, arms, height, width = bumps.shape
    return bumps.transpose(0, 1, 3, 5, 6, 2, 4).reshape(batch, slots, views, height, width, raw * arms)


def moved_pictures(
    pictures: UInt8[Array, "B F V H W 3"], shifts: Float[Array, "B F R V arm 2"]
) -> UInt8[Array, "B F R V arm H W 3"]:
    """Every picture moved by `shifts` (down, right; in units of half its side), to the nearest pixel; its edges repeat
    where nothing comes in."""
    height, width = pictures.shape[3:5]
    around = [(0, 0)] * 3 + [(height, height), (width, width), (0, 0)]

    def move(padded: Array, shift: Array) -> Array:
        # A window of the padded picture: gathering pixels one by one, the compiler would write out all their indices.
        rows, columns = (
            jnp.clip(side - jnp.round(part * side / 2.0).astype(jnp.int32), 0, 2 * side)
            for part, side in zip(shift, (height, width), strict=True)
        )
        return jax.lax.dynamic_slice(padded, (rows, columns, 0), (height, width, padded.shape[-1]))

    of_arms = jax.vmap(move, (None, 0))
    of_slot = jax.vmap(jax.vmap(of_arms), (None, 0))
    return jax.vmap(jax.vmap(of_slot))(jnp.pad(pictures, around, mode="edge"), shifts)
