"""What the latent slots of a batch are: given or to be generated, an event's anchor or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from wallwm_jax.core.types import EventBatch
from wallwm_jax.nn.layers import gather_segments


class Slots(NamedTuple):
    """The latent slots of packed rows, as the video tower needs them."""

    segment_ids: Int[Array, "B F"]
    """The event of a slot, from 1; 0 for padding."""
    positions: Int[Array, "B F"]
    """The latent frame's index in its window."""
    observed: Bool[Array, "B F"]
    """Slots that are given."""
    views: Bool[Array, "B F V"]
    """Views that real slots have."""


def slots_of(batch: EventBatch) -> Slots:
    """The slots of a batch."""
    return Slots(batch.frame_segment_ids, batch.frame_positions, observed_slots(batch), real_views(batch))


def observed_slots(batch: EventBatch) -> Bool[Array, "B F"]:
    """Slots that are given."""
    return batch.observed_mask & batch.frame_mask


def future_slots(batch: EventBatch) -> Bool[Array, "B F"]:
    """Slots that are to be generated."""
    return batch.frame_mask & ~batch.observed_mask & (batch.frame_segment_ids > 0)


def real_views(batch: EventBatch) -> Bool[Array, "B F V"]:
    """Views that real slots have."""
    return batch.view_mask & (batch.frame_mask & (batch.frame_segment_ids > 0))[..., None]


def anchor_slots(batch: EventBatch) -> Bool[Array, "B F"]:
    """The observed slots that end with their events' current observations."""
    anchors = gather_segments(batch.anchor_positions, batch.frame_segment_ids)
    return observed_slots(batch) & (batch.frame_positions == anchors)


def slots_of_segments(batch: EventBatch, slots: Bool[Array, "B F"]) -> Bool[Array, "B S F"]:
    """Which of `slots` belong to which event."""
    segments = 1 + jnp.arange(batch.segment_mask.shape[1])
    return slots[:, None] & (batch.frame_segment_ids[:, None] == segments[:, None])


def of_anchors(batch: EventBatch, values: Array) -> tuple[Array, Bool[Array, "B S"]]:
    """Values `[B, F, ...]` at every event's anchor slot, as `[B, S, ...]`, and whether there is one."""
    own = slots_of_segments(batch, anchor_slots(batch))
    return jax.vmap(lambda row, slots: row[slots])(values, jnp.argmax(own, -1)), jnp.any(own, -1)


def of_own_anchors(batch: EventBatch, values: Shaped[Array, "B F *rest"]) -> Shaped[Array, "B F *rest"]:
    """Values at the anchor of every slot's own event; 0 in padding."""
    return gather_segments(of_anchors(batch, values)[0], batch.frame_segment_ids)
