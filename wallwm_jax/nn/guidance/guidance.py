"""Guidance: what this library adds to the paper's towers, as one optional module that is composed from outside.

Six parts, each of which can be left out; then its parameters do not exist, and without all of them the model is the
paper's. The towers know nothing of it: the video tower takes channels beside its latents, and the action tower takes
vectors that are added to its tokens (`ActionGuides`).

| part | says | to |
|---|---|---|
| keyframe reader | where in the current pictures the caption's things are | the state token |
| waypoints | where in the pictures the end effectors will be | channels beside the latents |
| painter | a first picture of the frames to come, by the waypoints | channels beside the latents |
| duration | how many control steps the event takes | event mode |
| patch place | where in the image a patch is | the video features that actions read |
| clock | seconds since the anchor | action tokens, and the video features that they read |
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from wallwm_jax.core.types import UNIFIED_DIMENSION, EventBatch
from wallwm_jax.nn.action_dit import ActionGuides
from wallwm_jax.nn.guidance.duration import DurationHead
from wallwm_jax.nn.guidance.keyframe_reader import Asked, KeyframeReader, ReadingEmbedding
from wallwm_jax.nn.guidance.painter import Painter
from wallwm_jax.nn.guidance.places import place_features
from wallwm_jax.nn.guidance.waypoint_labels import WaypointLabels, waypoint_labels
from wallwm_jax.nn.guidance.waypoints import (
    Sketch,
    WaypointHead,
    Waypoints,
    known_arms,
    moments_of,
    moved_pictures,
    waypoint_maps,
)
from wallwm_jax.nn.layers import Linear, gather_segments, sinusoid
from wallwm_jax.nn.parameters import parameter
from wallwm_jax.nn.patches import grid_of, patchify
from wallwm_jax.nn.slots import future_slots, of_anchors, of_own_anchors, real_views
from wallwm_jax.nn.video_codec import VideoCodec

VIDEO_PARTS = ("waypoint_head", "painter")
ACTION_PARTS = ("keyframe_reader", "found", "clock", "video_clock", "video_place")
"""Names of the guidance's parameters, which lie beside those of the tower that they are trained with."""

_DURATION_HEADS = 4


@dataclasses.dataclass(frozen=True)
class GuidanceSizes:
    """Which parts there are, and their sizes.

    Attributes:
      keyframe_reader, waypoints, painter, duration, patch_place, clock: the parts; a painter needs waypoints.
      embed, action_embed, text_embed: widths of the towers and of the caption features.
      channels: latent channels C.
      views: rows of the view tables, the most views that a batch may have.
      patch: side of a patch in latent cells.
      grid: patch rows and columns for which the duration head learns places.
      reader: channels of the keyframe readers' convolutions.
      reads: places that a caption asks for in every view.
      arms: whose waypoints are told (0 left, 1 right).
      duration_embed: width of the duration head.
      frequency: sines and cosines of seconds and places.
    """

    keyframe_reader: bool
    waypoints: bool
    painter: bool
    duration: bool
    patch_place: bool
    clock: bool
    embed: int
    action_embed: int
    text_embed: int
    channels: int
    views: int
    patch: int
    grid: tuple[int, int]
    reader: tuple[int, ...]
    reads: int
    arms: tuple[int, ...]
    duration_embed: int
    frequency: int

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes that all parts share."""
        return {
            "embed": self.embed,
            "action_embed": self.action_embed,
            "text_embed": self.text_embed,
            "frequency": self.frequency,
            "view": self.views,
            "query": self.reads,
            "dof": UNIFIED_DIMENSION,
        }

    @property
    def duration_axes(self) -> dict[str, int]:
        """Those of the duration head, whose width is its own."""
        width, heads = self.duration_embed, _DURATION_HEADS
        sizes = {"embed": width, "heads": heads, "head_dim": width // heads, "mlp": 2 * width, "output": 1}
        places = {"position": self.grid[0] * self.grid[1], "patch": self.patch**2 * self.channels}
        return self.axes | sizes | places


class VideoGuidance(nn.Module):
    """The parts that the video tower is guided by, which are trained with it."""

    sizes: GuidanceSizes
    dtype: Any = jnp.float32

    def setup(self):
        row = self.sizes
        if row.waypoints:
            self.waypoint_head = WaypointHead(row.axes, row.reader, len(row.arms), self.dtype)
        if row.painter:
            self.painter = Painter(row.axes, self.dtype)


class ActionGuidance(nn.Module):
    """The parts that the action tower is guided by, which are trained with it."""

    sizes: GuidanceSizes
    dtype: Any = jnp.float32

    def setup(self):
        row, sizes = self.sizes, self.sizes.axes
        if row.keyframe_reader:
            self.keyframe_reader = KeyframeReader(sizes, row.reader, self.dtype)
            self.found = ReadingEmbedding("action_embed", sizes, self.dtype)
        if row.clock:
            self.clock = Linear("frequency -> action_embed @adamw", sizes, bias=None)
            self.video_clock = Linear("frequency -> embed @adamw", sizes, bias=None)
        if row.patch_place:
            self.video_place = parameter(self, "video_place", "view frequency -> embed @adamw", sizes)

    def guides(
        self,
        found: Float[Array, "B S action_embed"] | None,
        action_times: Float[Array, "B A"],
        frame_times: Float[Array, "B F"],
        views: int,
        grid: tuple[int, int],
    ) -> ActionGuides:
        """What is added to the action tower's tokens. Times are seconds since the anchor."""
        row, steps, slots, patches = self.sizes, None, None, None
        if row.clock:
            steps, slots = self.clock(self._seconds(action_times)), self.video_clock(self._seconds(frame_times))
        if row.patch_place:
            # Features of a rotary tower do not say where in the image they were, and a pose needs it.
            place = place_features(grid, row.frequency)
            patches = jnp.einsum("nf,vfe->vne", place, self.video_place[:views])
            # Only one view's rows of the matrix meet a token: undo the fan-in over all views.
            patches = patches * row.views**0.5
        return ActionGuides(found, steps, slots, patches)

    def _seconds(self, seconds: Array) -> Array:
        return sinusoid(seconds, self.sizes.frequency, longest=1000.0, scale=10.0)


class Guidance(nn.Module):
    """All parts on batches of events. A part that is off answers None.

    Attributes:
      sizes: the parts and their sizes.
      codec: of frames and latents; needed by waypoints alone.
    """

    sizes: GuidanceSizes
    codec: VideoCodec | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.of_video = VideoGuidance(self.sizes, self.dtype)
        self.of_action = ActionGuidance(self.sizes, self.dtype)
        if self.sizes.duration:
            self.duration = DurationHead(self.sizes.duration_axes, self.sizes.grid, self.dtype)

    def read_keyframes(
        self,
        batch: EventBatch,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> tuple[Float[Array, "B S action_embed"] | None, Float[Array, "B S V query h2 w2"] | None]:
        """Where in the current observation, the anchor's last raw frame, is what a caption names, as a part of the
        event's state token; and the logits of the cells looked at.

        The paper's actions know of the scene what the patches of a pretrained video tower tell them. The reader sees
        finer cells and learns from the actions themselves.
        """
        if not self.sizes.keyframe_reader:
            return None, None
        shape = batch.segment_mask.shape
        reading = self.of_action.keyframe_reader(_asked(batch, text_features, text_mask))
        found = self.of_action.found(reading)
        return found.reshape(*shape, -1), reading.logits.reshape(*shape, *reading.logits.shape[1:])

    def waypoints(
        self,
        batch: EventBatch,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Waypoints | None:
        """Where the effectors will be, told by the current observation, the caption, the state and the event's
        length."""
        if not self.sizes.waypoints:
            return None
        asked = _asked(batch, text_features, text_mask)
        state = jnp.concatenate([jnp.where(batch.dof_mask, batch.state, 0.0), batch.dof_mask.astype(jnp.float32)], -1)
        return self.of_video.waypoint_head(asked, state, batch.frame_segment_ids, moments_of(batch))

    def waypoint_labels(self, batch: EventBatch) -> WaypointLabels:
        """What `waypoints` should have said, and where `read_keyframes` should have looked."""
        arms = self.sizes.arms
        return waypoint_labels(batch, known_arms(batch, arms), arms, self.sizes.reads)

    def sketch(
        self, batch: EventBatch, observed: Float[Array, "B F V h w C"], waypoints: Waypoints | None
    ) -> Sketch | None:
        """What the video tower sees of waypoints, in the slots that are to be generated; None without them. No gradient
        reaches the waypoints."""
        if waypoints is None:
            return None
        waypoints, ids = jax.lax.stop_gradient(waypoints), batch.frame_segment_ids
        real = future_slots(batch)[..., None] & batch.view_mask
        shown = real[..., None] & gather_segments(known_arms(batch, self.sizes.arms), ids)[:, :, None]
        maps = waypoint_maps(waypoints, shown, observed.shape[3:5])
        if not self.sizes.painter:
            return Sketch(maps, None)
        now = of_own_anchors(batch, waypoints.places[:, :, -1])
        moved = moved_pictures(of_own_anchors(batch, batch.frames[:, :, -1]), waypoints.places - now[:, :, None])
        # [B F R V arm H W 3]: the frames of a view and arm are one group.
        groups = jnp.moveaxis(moved, 2, 4).astype(jnp.float32) / 127.5 - 1.0
        latents = jnp.moveaxis(self.codec.encode_groups(groups), 3, 5)
        latents = jnp.where(shown[:, :, :, None, None, :, None], latents, 0.0)
        painted = self.of_video.painter(of_own_anchors(batch, observed), latents, maps)
        return Sketch(maps, jnp.where(real[..., None, None, None], painted, 0.0))

    def expected_steps(
        self,
        batch: EventBatch,
        observed: Float[Array, "B F V h w C"],
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Float[Array, "B S"] | None:
        """Log control steps of every event, fp32; 0 for empty segments."""
        if not self.sizes.duration:
            return None
        anchors, known = of_anchors(batch, observed)
        grid = grid_of(*observed.shape[3:5], self.sizes.patch)
        patches = patchify(anchors, self.sizes.patch)
        real = of_anchors(batch, real_views(batch))[0] & known[..., None]
        steps = self.duration(patches, real, text_features, text_mask, batch.state, batch.dof_mask, grid)
        return jnp.where(batch.segment_mask, steps, 0.0)

    def action_guides(
        self, batch: EventBatch, found: Float[Array, "B S action_embed"] | None, grid: tuple[int, int]
    ) -> ActionGuides:
        """What is added to the action tower's tokens; `found` is that of `read_keyframes`."""
        views = batch.view_mask.shape[2]
        return self.of_action.guides(found, batch.action_times, batch.frame_times, views, grid)


def _asked(batch: EventBatch, text_features: Array, text_mask: Array) -> Asked:
    """What a keyframe reader reads of every event, N = B * S: no text but an event's own, for the places of all that
    an instruction names are not where the robot is to go next."""
    pictures, known = of_anchors(batch, batch.frames[:, :, -1])
    real = of_anchors(batch, real_views(batch))[0] & known[..., None]
    shown = text_mask & (batch.segment_mask & batch.told_event)[..., None]
    asked = Asked(pictures.astype(jnp.float32) / 127.5 - 1.0, real, text_features, shown)
    return Asked(*(part.reshape(-1, *part.shape[2:]) for part in asked))
