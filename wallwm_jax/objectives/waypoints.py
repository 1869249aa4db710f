"""The losses of waypoints and of gaze: where the end effectors will be, in the pictures of the event's anchor.

Labels need calibrated cameras and known arms; whatever is unknown, hidden or outside a picture is masked.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wallwm_jax.core.types import EventBatch
from wallwm_jax.nn.cameras import project
from wallwm_jax.nn.waypoints import Waypoints, known_arms, progress_of
from wallwm_jax.objectives.segments import masked_mean, of_segments


def waypoint_loss(waypoints: Waypoints, batch: EventBatch, arms: Sequence[int]) -> Float[Array, ""]:
    """Negative log likelihood of the true places under the waypoints' Laplace distributions in the plane (without its
    constant), mean over what is known of the frames to be generated."""
    places, known = effector_places(batch, arms)
    distance = jnp.sqrt(jnp.sum(jnp.square(waypoints.places - places), -1) + 1e-8)
    return masked_mean(distance / waypoints.spreads + 2.0 * jnp.log(waypoints.spreads), known)


def gaze_loss(logits: Float[Array, "B S V query h w"], batch: EventBatch, arms: Sequence[int]) -> Float[Array, ""]:
    """Cross-entropy between the cells that query j of m looks at and where the effector is when (j + 1) / m of the
    event is done, split over the four nearest cells."""
    places, known = effector_places(batch, arms)
    rows, queries, grid = logits.shape[0], logits.shape[3], logits.shape[4:]
    frame = _frames_at(batch, (jnp.arange(queries) + 1.0) / queries)
    flat = [part.reshape(rows, -1, *part.shape[3:]) for part in (places, known)]
    place, seen = (jax.vmap(lambda values, index: values[index])(part, frame) for part in flat)
    # [B S m V arm]: several arms share the looking.
    target = (_cells(place, grid) * seen[..., None, None]).sum(4)
    share = target.sum((-1, -2), keepdims=True)
    target = jnp.moveaxis(target / jnp.maximum(share, 1.0), 2, 3)
    log = jax.nn.log_softmax(logits.reshape(*logits.shape[:4], -1), -1).reshape(logits.shape)
    labelled = jnp.moveaxis(seen.any(-1), 2, 3) & _has_future(batch)[:, :, None, None]
    return masked_mean(-(target * log).sum((-1, -2)), labelled)


def with_true_places(
    waypoints: Waypoints, batch: EventBatch, arms: Sequence[int], taught: Bool[Array, "B S"]
) -> Waypoints:
    """The waypoints with the true places of the events that `taught` chooses, where these are known."""
    places, known = effector_places(batch, arms)
    chosen = of_segments(taught.astype(jnp.float32), batch.frame_segment_ids) > 0
    known = known & chosen[:, :, None, None, None]
    return waypoints._replace(places=jnp.where(known[..., None], places, waypoints.places))


def effector_places(
    batch: EventBatch, arms: Sequence[int]
) -> tuple[Float[Array, "B F R V arm 2"], Bool[Array, "B F R V arm"]]:
    """Where each effector is in the pictures of its event's anchor, (row, column) from -1 to 1, and whether that is
    known: of frames to be generated, an arm the robot has, a present camera, a place inside its picture."""
    anchors = of_segments(batch.anchor_positions.astype(jnp.float32), batch.frame_segment_ids)
    same = batch.frame_segment_ids[:, :, None] == batch.frame_segment_ids[:, None, :]
    is_anchor = batch.observed_mask & batch.frame_mask & (batch.frame_positions == anchors)
    own = same & is_anchor[:, None, :]
    slot = jnp.argmax(own, -1)
    intrinsics, extrinsics, present = (
        jax.vmap(lambda values, index: values[index])(part, slot)
        for part in (batch.intrinsics, batch.extrinsics, batch.camera_mask & batch.view_mask)
    )
    shape = (*batch.effectors.shape[:3], batch.view_mask.shape[2], len(arms))
    points = jnp.broadcast_to(batch.effectors[:, :, :, None, list(arms)], (*shape, 3))
    cameras = (
        jnp.broadcast_to(part[:, :, None, :, None], (*shape, *part.shape[-2:])) for part in (intrinsics, extrinsics)
    )
    places, inside = project(points, *cameras, batch.frames.shape[4:6])
    index = jnp.maximum(batch.frame_segment_ids - 1, 0)[..., None]
    owned = jnp.take_along_axis(known_arms(batch, arms), index, axis=1)
    # Of an anchor's raw frames the last is the current one.
    last = jnp.arange(batch.frames.shape[2]) == batch.frames.shape[2] - 1
    future = batch.frame_mask & ~batch.observed_mask & (batch.frame_segment_ids > 0) & own.any(-1)
    labelled = future[..., None] | (is_anchor[..., None] & last)
    known = (
        inside & batch.effector_mask[:, :, :, None, list(arms)] & owned[:, :, None, None] & labelled[..., None, None]
    )
    known = known & (present & batch.view_mask)[:, :, None, :, None]
    return jnp.where(known[..., None], places, 0.0), known


def _has_future(batch: EventBatch) -> Bool[Array, "B S"]:
    segments = 1 + jnp.arange(batch.segment_mask.shape[1])
    future = batch.frame_mask & ~batch.observed_mask
    return (future[:, None] & (batch.frame_segment_ids[:, None] == segments[:, None])).any(-1)


def _frames_at(batch: EventBatch, shares: Float[Array, "m"]) -> Array:
    """The raw frame of every segment, an index into F * R, nearest to each share of the event: [B, S, m]."""
    _, done = progress_of(batch)
    future = batch.frame_mask & ~batch.observed_mask
    segments = 1 + jnp.arange(batch.segment_mask.shape[1])
    own = future[:, None] & (batch.frame_segment_ids[:, None] == segments[:, None])
    far = jnp.abs(done[:, None, None] - shares[:, None, None])
    far = jnp.where(own[:, :, None, :, None], far, jnp.inf)
    return jnp.argmin(far.reshape(*far.shape[:3], -1), -1)


def _cells(places: Float[Array, "*batch 2"], grid: tuple[int, int]) -> Float[Array, "*batch h w"]:
    """The share of each cell in a place, linear in its distance from the cell's centre; edges take what is beyond."""
    parts = []
    for axis, count in enumerate(grid):
        at = jnp.clip((places[..., axis] + 1.0) / 2.0 * count - 0.5, 0.0, count - 1.0)
        parts.append(jnp.maximum(1.0 - jnp.abs(at[..., None] - jnp.arange(count)), 0.0))
    return parts[0][..., :, None] * parts[1][..., None, :]
