"""WALL-WM: a multi-view video tower and an action tower that reads it, `p(V_e, a_e | V_0, s, c_e)`.

Convention of both flows: z_t = (1 - t) z_0 + t eps, velocity eps - z_0, t = 1 is pure noise (WALL-WM eq. 7).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import EventBatch
from wallwm_jax.models.fits import check_batch
from wallwm_jax.models.variants import Variant
from wallwm_jax.nn import masks
from wallwm_jax.nn.action_dit import ActionPass, ActionSlots, ActionTower, VideoSlots
from wallwm_jax.nn.guidance.guidance import Guidance
from wallwm_jax.nn.guidance.waypoint_labels import WaypointLabels
from wallwm_jax.nn.guidance.waypoints import Sketch, Waypoints
from wallwm_jax.nn.layers import gather_segments
from wallwm_jax.nn.patches import grid_of
from wallwm_jax.nn.slots import observed_slots, of_own_anchors, real_views, slots_of
from wallwm_jax.nn.text_encoder import TextEncoder
from wallwm_jax.nn.towers import towers
from wallwm_jax.nn.video_codec import VideoCodec
from wallwm_jax.nn.video_dit import VideoPass, VideoTower


class JointOutput(NamedTuple):
    """What one joint pass of `WorldAction` returns; fp32."""

    video: Float[Array, "B F V h w C"]
    """Velocity."""
    action: Float[Array, "B K A 26"]
    """Velocity; 0 in masked steps and degrees of freedom."""
    log_steps: Float[Array, "B S"] | None
    """Of the duration head; None without one."""


class WorldAction(nn.Module):
    """The model. Methods are called as `model.apply({"params": params}, ..., method="video")`.

    Parameters of the guidance lie beside those of the tower that they are trained with, under `video` and `action`.

    Attributes:
      variant: the size.
      views: rows of the view tables, the most cameras that a batch may have (V). A batch with fewer has the first.
      cross_view: whether video blocks have the cross-view branch.
      remat: what of each block the backward pass computes again (`nn.remat.REMATS`).
      unroll: layers a scan iteration.
      dtype: of the matrix products; parameters, norms, softmax, modulation and outputs stay fp32.
    """

    variant: Variant
    views: int
    cross_view: bool = True
    remat: str = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    def setup(self):
        row = self.variant
        video, action = row.video_sizes(self.views), row.action_sizes
        self.text_encoder = TextEncoder(row.text, self.dtype)
        self.video_tower = VideoTower(video, self.dtype, name="video")
        self.action_tower = ActionTower(action, self.dtype, name="action")
        self.guidance = Guidance(row.guidance_sizes(self.views), row.codec, self.dtype)
        nn.share_scope(self, self.guidance)
        nn.share_scope(self.guidance.of_video, self.video_tower)
        nn.share_scope(self.guidance.of_action, self.action_tower)
        options = {"cross_view": self.cross_view, "remat": self.remat, "unroll": self.unroll, "dtype": self.dtype}
        self.blocks = towers(row.layers, video.axes, action.axes, **options)

    def __call__(
        self,
        batch: EventBatch,
        noisy_video: Float[Array, "B F V h w C"],
        noisy_action: Float[Array, "B K A 26"],
        video_time: Float[Array, "B S"],
        action_time: Float[Array, "B K S"],
    ) -> JointOutput:
        """One joint pass. Observed slots are those of the batch's latents, or else of its frames."""
        latents = self.encode_frames(batch.frames) if batch.latents is None else batch.latents
        observed = self.keyframes(batch, latents)
        text = {"text_features": self.encode_text(batch.text, batch.text_mask), "text_mask": batch.text_mask}
        noisy_video = self._with_keyframes(batch, noisy_video, observed)
        sketch = self.foresee(batch, observed, **text)
        video = self._begin_video(batch, noisy_video, observed, video_time, sketch=sketch, sight_cones=False, **text)
        found, _ = self.read_keyframes(batch, **text)
        action = self._begin_action(batch, noisy_action, action_time, found)
        (tokens, action_tokens), _ = self.blocks((video.tokens, action.tokens), None, video.context, action.context)
        return JointOutput(
            self._video_velocity(batch, tokens, video.time, noisy_video, observed, time=video_time, sketch=sketch),
            self._action_velocity(batch, action_tokens, action.time, noisy_action, action_time),
            self.duration(batch, observed, **text),
        )

    def encode_frames(self, frames: UInt8[Array, "B F R V H W 3"]) -> Float[Array, "B F V h w C"]:
        """Latents of grouped frames (0..255), fp32."""
        grouped = jnp.moveaxis(frames, 3, 2).astype(jnp.float32) / 127.5 - 1.0
        return self._codec().encode_groups(grouped)

    def decode_frames(self, latents: Float[Array, "B F V h w C"]) -> Float[Array, "B F R V H W 3"]:
        """Frames in 0..255 as floats, clipped."""
        frames = self._codec().decode_groups(latents)
        return jnp.moveaxis(jnp.clip((frames + 1.0) * 127.5, 0.0, 255.0), 2, 3)

    def encode_text(self, text: Array, text_mask: Bool[Array, "B S L"]) -> Float[Array, "B S L text_embed"]:
        """Features of the captions, fp32; zero where the mask is False."""
        return self.text_encoder(text, text_mask)

    def keyframes(self, batch: EventBatch, latents: Float[Array, "B F V h w C"]) -> Float[Array, "B F V h w C"]:
        """`latents` at the observed slots, zero elsewhere: the conditioning channel y."""
        check_batch(self.variant, self.views, batch, latents.shape[3:5])
        return jnp.where(observed_slots(batch)[:, :, None, None, None, None], latents, 0.0)

    def video(
        self,
        batch: EventBatch,
        noisy: Float[Array, "B F V h w C"],
        observed: Float[Array, "B F V h w C"],
        time: Float[Array, "B S"],
        *,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
        sketch: Sketch | None,
        sight_cones: bool = False,
    ) -> tuple[Float[Array, "B F V h w C"], Float[Array, "layers B F V n embed"]]:
        """Velocity (fp32) and every block's output. Observed slots enter clean, whatever `noisy` holds there (as
        Wan2.2-TI2V). `sketch` is that of the waypoints, None without them. `sight_cones` restricts cross-view
        attention by the cameras' calibration (training only)."""
        noisy = self._with_keyframes(batch, noisy, observed)
        text = {"text_features": text_features, "text_mask": text_mask}
        start = self._begin_video(batch, noisy, observed, time, sketch=sketch, sight_cones=sight_cones, **text)
        (tokens, _), features = self.blocks((start.tokens, None), None, start.context, None)
        velocity = self._video_velocity(batch, tokens, start.time, noisy, observed, time=time, sketch=sketch)
        return velocity, features

    def action(
        self,
        batch: EventBatch,
        noisy: Float[Array, "B K A 26"],
        time: Float[Array, "B K S"],
        *,
        found: Float[Array, "B S action_embed"] | None,
        features: Float[Array, "layers B F V n embed"],
    ) -> Float[Array, "B K A 26"]:
        """Velocity of K noise draws that share the video features (eqs. 9-13) and what `read_keyframes` found, fp32;
        masked DoF are exactly 0."""
        start = self._begin_action(batch, noisy, time, found)
        (_, tokens), _ = self.blocks((None, start.tokens), features, None, start.context)
        return self._action_velocity(batch, tokens, start.time, noisy, time)

    def read_keyframes(
        self,
        batch: EventBatch,
        *,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> tuple[Float[Array, "B S action_embed"] | None, Float[Array, "B S V query h2 w2"] | None]:
        """`Guidance.read_keyframes`: a part of the state token, and where the caption looks. None without a reader."""
        check_batch(self.variant, self.views, batch, batch.border_mask.shape[-2:])
        return self.guidance.read_keyframes(batch, text_features, text_mask)

    def waypoints(
        self,
        batch: EventBatch,
        *,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Waypoints | None:
        """`Guidance.waypoints`: where the effectors will be; None without waypoints."""
        return self.guidance.waypoints(batch, text_features, text_mask)

    def waypoint_labels(self, batch: EventBatch) -> WaypointLabels:
        """What `waypoints` should have said, and where `read_keyframes` should have looked."""
        return self.guidance.waypoint_labels(batch)

    def sketch(
        self, batch: EventBatch, observed: Float[Array, "B F V h w C"], waypoints: Waypoints | None
    ) -> Sketch | None:
        """`Guidance.sketch`: what the video tower sees of these waypoints; None without them."""
        return self.guidance.sketch(batch, observed, waypoints)

    def foresee(
        self,
        batch: EventBatch,
        observed: Float[Array, "B F V h w C"],
        *,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Sketch | None:
        """The sketch of the model's own waypoints."""
        return self.sketch(batch, observed, self.guidance.waypoints(batch, text_features, text_mask))

    def duration(
        self,
        batch: EventBatch,
        observed: Float[Array, "B F V h w C"],
        *,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Float[Array, "B S"] | None:
        """Log control steps of every event, fp32; 0 for empty segments. None without a duration head."""
        return self.guidance.expected_steps(batch, observed, text_features, text_mask)

    def _codec(self) -> VideoCodec:
        if self.variant.codec is None:
            raise InputError("variant.codec", None, "a codec: this variant takes latents only")
        return self.variant.codec

    def _with_keyframes(self, batch: EventBatch, noisy: Array, observed: Array) -> Array:
        return jnp.where(observed_slots(batch)[:, :, None, None, None, None], observed, noisy)

    def _begin_video(self, batch, noisy, observed, time, *, text_features, text_mask, sketch, sight_cones) -> VideoPass:
        check_batch(self.variant, self.views, batch, noisy.shape[3:5])
        visible, patch = None, self.variant.patch
        if sight_cones:
            grid, pixels = grid_of(*noisy.shape[3:5], patch), patch * self._codec().spatial_compression
            cameras = (batch.intrinsics, batch.extrinsics, batch.camera_mask)
            visible = masks.sight_cone_mask(*cameras, grid, pixels, self.variant.reach)
        return self.video_tower.begin(
            noisy,
            time,
            text_features,
            text_mask=text_mask & batch.segment_mask[..., None],
            observed=observed,
            slots=slots_of(batch),
            guides=None if sketch is None else sketch.channels,
            visible=visible,
        )

    def _video_velocity(self, batch, tokens, embedding, noisy, observed, *, time, sketch) -> Array:
        predicted = self.video_tower.finish(tokens, embedding, grid_of(*noisy.shape[3:5], self.variant.patch))
        if self.variant.prediction == "velocity":
            return predicted
        painted = None if sketch is None else sketch.painted
        base = of_own_anchors(batch, observed) if painted is None else painted
        slot_time = gather_segments(time, batch.frame_segment_ids)[:, :, None, None, None, None]
        # How much of the anchor's cell is gone: what moves away need not be drawn with the opposite sign.
        change, gone = predicted[..., :-1], predicted[..., -1:]
        clean = (1.0 - gone) * base + change
        return velocity_of_clean(noisy, clean, slot_time, self.variant.min_time)

    def _begin_action(self, batch, noisy, time, found) -> ActionPass:
        cells = batch.border_mask.shape[-2:]
        check_batch(self.variant, self.views, batch, cells)
        grid = grid_of(*cells, self.variant.patch)
        ids = jnp.where(batch.action_mask, batch.action_segment_ids, 0)
        anchors = gather_segments(batch.anchor_positions, ids)
        video_anchors = gather_segments(batch.anchor_positions, batch.frame_segment_ids)
        video_frames = batch.frame_positions - video_anchors
        return self.action_tower.begin(
            noisy,
            time,
            state=batch.state,
            dof_mask=batch.dof_mask,
            actions=ActionSlots(ids, batch.action_positions, batch.action_frames - anchors),
            video=VideoSlots(batch.frame_segment_ids, video_frames, real_views(batch)),
            patches=grid[0] * grid[1],
            guides=self.guidance.action_guides(batch, found, grid),
        )

    def _action_velocity(self, batch, tokens, embedding, noisy, time) -> Array:
        ids = jnp.where(batch.action_mask, batch.action_segment_ids, 0)
        predicted = self.action_tower.finish(tokens, embedding)
        if self.variant.action_prediction == "clean":
            slot_time = jax.vmap(gather_segments, in_axes=(1, None), out_axes=1)(time, ids)[..., None]
            predicted = velocity_of_clean(noisy, predicted, slot_time, self.variant.min_time)
        return jnp.where(gather_segments(batch.dof_mask, ids)[:, None], predicted, 0.0)


def velocity_of_clean(noisy: Array, clean: Array, time: Array, min_time: float) -> Array:
    """(z_t - z_0) / t, which equals eps - z_0; t is kept above `min_time`."""
    return (noisy - clean) / jnp.maximum(time, min_time)
