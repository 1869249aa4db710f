"""Where the end effectors truly will be, as waypoints say it: what a batch's poses and calibrated cameras tell."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.types import EventBatch
from wallwm_jax.nn.cameras import project
from wallwm_jax.nn.layers import gather_segments
from wallwm_jax.nn.slots import anchor_slots, future_slots, of_anchors, slots_of_segments


class WaypointLabels(NamedTuple):
    """Places in the pictures of the event's anchor, (row, column) from -1 to 1; 0 where not known."""

    places: Float[Array, "B F R V arm 2"]
    known: Bool[Array, "B F R V arm"]
    """Of frames to be generated and of an anchor's last one: an arm the robot has, a present calibrated camera, a place
    inside its picture."""
    gaze: Float[Array, "B S V query arm 2"]
    """The places when (j + 1) / m of the event is done, for query j of m. Not known of what was told the task: nothing
    in it says where to look."""
    gaze_known: Bool[Array, "B S V query arm"]


def waypoint_labels(
    batch: EventBatch, known_arms: Bool[Array, "B S arm"], arms: Sequence[int], queries: int
) -> WaypointLabels:
    """The labels of `arms` (0 left, 1 right), of which events have those of `known_arms`."""
    places, known = _places(batch, known_arms, arms)
    frame, has_future = _frames_at(batch, (jnp.arange(queries) + 1.0) / queries)
    flat = (part.reshape(len(part), -1, *part.shape[3:]) for part in (places, known))
    gaze, seen = (jnp.moveaxis(jax.vmap(lambda values, index: values[index])(part, frame), 2, 3) for part in flat)
    asked = has_future & batch.told_event
    return WaypointLabels(places, known, gaze, seen & asked[:, :, None, None, None])


def progress_of(batch: EventBatch) -> tuple[Float[Array, "B F R"], Float[Array, "B F R"]]:
    """Seconds from the anchor to every raw frame, and the share of the event that is done then, 0 to 1.

    Both are 0 in observed and padded slots; an event without action steps counts as done at once.
    """
    raw = batch.frames.shape[2]
    anchors = gather_segments(batch.anchor_positions, batch.frame_segment_ids)
    future = future_slots(batch)
    latents = jnp.where(future, batch.frame_positions - anchors, 1)[..., None].astype(jnp.float32)
    missing = (raw - 1.0 - jnp.arange(raw)) / raw
    seconds = jnp.where(future, batch.frame_times, 0.0)[..., None] * (1.0 - missing / latents)
    segments = 1 + jnp.arange(batch.segment_mask.shape[1])
    own = batch.action_mask[:, None] & (batch.action_segment_ids[:, None] == segments[:, None])
    last = jnp.max(jnp.where(own, batch.action_times[:, None], 0.0), -1)
    step = last / jnp.maximum(own.sum(-1), 1)
    ends = gather_segments(step * batch.event_steps, batch.frame_segment_ids)[..., None]
    done = jnp.where(ends > 0, jnp.minimum(seconds / jnp.where(ends > 0, ends, 1.0), 1.0), 1.0)
    return seconds, jnp.where(future[..., None], done, 0.0)


def _places(batch: EventBatch, known_arms: Array, arms: Sequence[int]) -> tuple[Array, Array]:
    ids, future = batch.frame_segment_ids, future_slots(batch)
    cameras = (batch.intrinsics, batch.extrinsics, batch.camera_mask & batch.view_mask)
    intrinsics, extrinsics, present = (gather_segments(of_anchors(batch, part)[0], ids) for part in cameras)
    shape = (*batch.effectors.shape[:3], batch.view_mask.shape[2], len(arms))
    points = jnp.broadcast_to(batch.effectors[:, :, :, None, list(arms)], (*shape, 3))
    cameras = (
        jnp.broadcast_to(part[:, :, None, :, None], (*shape, *part.shape[-2:])) for part in (intrinsics, extrinsics)
    )
    places, inside = project(points, *cameras, batch.frames.shape[4:6])
    # Of an anchor's raw frames the last is the current one; it matters only beside what comes.
    last = jnp.arange(batch.frames.shape[2]) == batch.frames.shape[2] - 1
    starts = anchor_slots(batch) & gather_segments(slots_of_segments(batch, future).any(-1), ids)
    labelled = (future[..., None] | (starts[..., None] & last))[..., None, None]
    owned = gather_segments(known_arms, ids)[:, :, None, None]
    known = inside & batch.effector_mask[:, :, :, None, list(arms)] & owned & labelled
    known = known & (present & batch.view_mask)[:, :, None, :, None]
    return jnp.where(known[..., None], places, 0.0), known


def _frames_at(batch: EventBatch, shares: Float[Array, "m"]) -> tuple[Int[Array, "B S m"], Bool[Array, "B S"]]:
    """The raw frame of every segment, an index into F * R, nearest to each share of the event; and whether there is
    any."""
    _, done = progress_of(batch)
    own = slots_of_segments(batch, future_slots(batch))
    far = jnp.where(own[:, :, None, :, None], jnp.abs(done[:, None, None] - shares[:, None, None]), jnp.inf)
    return jnp.argmin(far.reshape(*far.shape[:3], -1), -1), own.any(-1)
