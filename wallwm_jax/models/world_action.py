"""WALL-WM: a multi-view video tower and an action tower that reads it, `p(V_e, a_e | V_0, s, c_e)`.

Convention of both flows: z_t = (1 - t) z_0 + t eps, velocity eps - z_0, t = 1 is pure noise (WALL-WM eq. 7).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import UNIFIED_DIMENSION, EventBatch
from wallwm_jax.models.variants import Variant
from wallwm_jax.nn import action_dit, masks, positions
from wallwm_jax.nn.activations import exchange, joined
from wallwm_jax.nn.attention import attention_mask
from wallwm_jax.nn.duration import DurationHead
from wallwm_jax.nn.keyframe_reader import Asked
from wallwm_jax.nn.layers import gather_segments
from wallwm_jax.nn.slots import future_slots, observed_slots, of_anchors, real_views
from wallwm_jax.nn.text_encoder import TextEncoder
from wallwm_jax.nn.towers import towers
from wallwm_jax.nn.video_dit import VIDEO_MODULATIONS, VideoContext, VideoTower, patchify
from wallwm_jax.nn.waypoint_labels import WaypointLabels, waypoint_labels
from wallwm_jax.nn.waypoints import Sketch, Waypoints, known_arms, moments_of, moved_pictures, waypoint_maps


class WorldAction(nn.Module):
    """The model. Methods are called as `model.apply({"params": params}, ..., method="video")`.

    Attributes:
      variant: the size.
      views: cameras a batch has (V).
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
        shared = {"frequency": row.frequency, "view": self.views, "text_embed": row.text_embed}
        shared |= {"dof": UNIFIED_DIMENSION, "position": row.max_latent_frames + 1}
        shared |= {"patch": row.patch**2 * row.channels}
        pairs = row.embed // row.heads // 2
        video = shared | _heads(row.embed, row.heads) | {"embed": row.embed, "mlp": row.mlp}
        video |= {"modulation": VIDEO_MODULATIONS, "view_rotation": positions.view_rotation_size(pairs)}
        video |= {"query": row.reads}
        action = shared | _heads(row.action_embed, row.action_heads) | {"embed": row.embed, "mlp": row.action_mlp}
        action |= {"action_embed": row.action_embed, "modulation": action_dit.ACTION_MODULATIONS, "query": row.reads}
        width = row.duration_embed
        duration = shared | _heads(width, 4) | {"embed": width, "mlp": 2 * width, "output": 1}
        duration["position"] = (row.cells // row.patch) ** 2

        arms = len(row.arms) if row.reader else 0
        predicted = row.channels + (row.prediction == "clean")
        self.text_encoder = TextEncoder(row.text, self.dtype)
        sketched = arms * row.codec.group + row.channels if arms else 0
        tower = (video, row.channels, row.patch, predicted, row.reader, arms, sketched, self.dtype)
        self.video_tower = VideoTower(*tower, name="video")
        self.action_tower = action_dit.ActionTower(action, row.reader, self.dtype, name="action")
        self.duration_head = DurationHead(duration, self.dtype, name="duration")
        options = {"cross_view": self.cross_view, "remat": self.remat, "unroll": self.unroll, "dtype": self.dtype}
        self.blocks = towers(row.layers, video, action, **options)

    def __call__(
        self,
        batch: EventBatch,
        noisy_video: Float[Array, "B F V h w C"],
        noisy_action: Float[Array, "B K A 26"],
        video_time: Float[Array, "B S"],
        action_time: Float[Array, "B K S"],
        latents: Float[Array, "B F V h w C"] | None = None,
    ) -> tuple[Float[Array, "B F V h w C"], Float[Array, "B K A 26"], Float[Array, "B S"]]:
        """One joint pass: video velocity, action velocity and log control steps. Observed slots are those of `latents`,
        or else of the batch's latents, or else of its frames."""
        latents = batch.latents if latents is None else latents
        observed = self.keyframes(batch, self.encode_frames(batch.frames) if latents is None else latents)
        text = self.encode_text(batch.text, batch.text_mask)
        noisy_video = self._with_keyframes(batch, noisy_video, observed)
        sketch = self.foresee(batch, observed, text, batch.text_mask)
        given = (video_time, text, batch.text_mask, sketch)
        video, context = self._video_inputs(batch, noisy_video, observed, *given, False)
        found, _ = self.read_keyframes(batch, text, batch.text_mask)
        action, action_context = self._action_inputs(batch, noisy_action, action_time, found)
        (video, action), _ = self.blocks((video, action), None, context[0], action_context[0])
        return (
            self._video_velocity(batch, video, context[1], noisy_video, observed, video_time, sketch),
            self._action_velocity(batch, action, action_context[1], noisy_action, action_time),
            self.duration(batch, observed, text, batch.text_mask),
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
        return jnp.where(observed_slots(batch)[:, :, None, None, None, None], latents, 0.0)

    def video(
        self,
        batch: EventBatch,
        noisy: Float[Array, "B F V h w C"],
        observed: Float[Array, "B F V h w C"],
        time: Float[Array, "B S"],
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
        sketch: Sketch | None,
        sight_cones: bool = False,
    ) -> tuple[Float[Array, "B F V h w C"], Float[Array, "layers B F V n embed"]]:
        """Velocity (fp32) and every block's output. Observed slots enter clean, whatever `noisy` holds there (as
        Wan2.2-TI2V). `sketch` is that of the waypoints, None without a reader. `sight_cones` restricts cross-view
        attention by the cameras' calibration (training only)."""
        noisy = self._with_keyframes(batch, noisy, observed)
        given = (time, text_features, text_mask, sketch)
        tokens, context = self._video_inputs(batch, noisy, observed, *given, sight_cones)
        (tokens, _), features = self.blocks((tokens, None), None, context[0], None)
        return self._video_velocity(batch, tokens, context[1], noisy, observed, time, sketch), features

    def read_keyframes(
        self,
        batch: EventBatch,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> tuple[Float[Array, "B S action_embed"], Float[Array, "B S V query h2 w2"] | None]:
        """Where in the current observation, the anchor's last raw frame, is what a caption names, as a part of the
        event's state token; and the logits of the cells looked at. 0 and None without a reader.

        Ours: the paper's actions know of the scene what the patches of a pretrained video tower tell them. The reader
        sees finer cells and learns from the actions themselves.
        """
        shape = batch.segment_mask.shape
        if not self.variant.reader:
            return jnp.zeros((*shape, self.variant.action_embed)), None
        reading = self.action_tower.keyframe_reader(self._asked(batch, text_features, text_mask))
        found = self.action_tower.found(reading)
        return found.reshape(*shape, -1), reading.logits.reshape(*shape, *reading.logits.shape[1:])

    def waypoints(
        self,
        batch: EventBatch,
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Waypoints | None:
        """Where the effectors will be, told by the current observation, the caption, the state and the event's length;
        None without a reader."""
        if not self.variant.reader:
            return None
        asked = self._asked(batch, text_features, text_mask)
        state = jnp.concatenate([jnp.where(batch.dof_mask, batch.state, 0.0), batch.dof_mask.astype(jnp.float32)], -1)
        moments = moments_of(batch)
        return self.video_tower.waypoint_head(asked, state, batch.frame_segment_ids, moments)

    def waypoint_labels(self, batch: EventBatch) -> WaypointLabels:
        """What `waypoints` should have said, and where `read_keyframes` should have looked."""
        arms = self.variant.arms
        return waypoint_labels(batch, known_arms(batch, arms), arms, self.variant.reads)

    def sketch(
        self, batch: EventBatch, observed: Float[Array, "B F V h w C"], waypoints: Waypoints | None
    ) -> Sketch | None:
        """What the video tower sees of waypoints, in the slots that are to be generated; None without them. No gradient
        reaches the waypoints."""
        if waypoints is None:
            return None
        waypoints, ids = jax.lax.stop_gradient(waypoints), batch.frame_segment_ids
        real = future_slots(batch)[..., None] & batch.view_mask
        shown = real[..., None] & gather_segments(known_arms(batch, self.variant.arms), ids)[:, :, None]
        maps = waypoint_maps(waypoints, shown, observed.shape[3:5])
        now = _of_own_anchors(batch, waypoints.places[:, :, -1])
        moved = moved_pictures(_of_own_anchors(batch, batch.frames[:, :, -1]), waypoints.places - now[:, :, None])
        # [B F R V arm H W 3]: the frames of a view and arm are one group.
        groups = jnp.moveaxis(moved, 2, 4).astype(jnp.float32) / 127.5 - 1.0
        latents = jnp.moveaxis(self._codec().encode_groups(groups), 3, 5)
        latents = jnp.where(shown[:, :, :, None, None, :, None], latents, 0.0)
        painted = self.video_tower.painter(_of_own_anchors(batch, observed), latents, maps)
        return Sketch(maps, jnp.where(real[..., None, None, None], painted, 0.0))

    def foresee(
        self,
        batch: EventBatch,
        observed: Float[Array, "B F V h w C"],
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Sketch | None:
        """The sketch of the model's own waypoints."""
        return self.sketch(batch, observed, self.waypoints(batch, text_features, text_mask))

    def action(
        self,
        batch: EventBatch,
        noisy: Float[Array, "B K A 26"],
        time: Float[Array, "B K S"],
        found: Float[Array, "B S action_embed"],
        features: Float[Array, "layers B F V n embed"],
    ) -> Float[Array, "B K A 26"]:
        """Velocity of K noise draws that share the video features (eqs. 9-13) and what `read_keyframes` found, fp32;
        masked DoF are exactly 0."""
        tokens, context = self._action_inputs(batch, noisy, time, found)
        (_, tokens), _ = self.blocks((None, tokens), features, None, context[0])
        return self._action_velocity(batch, tokens, context[1], noisy, time)

    def duration(
        self,
        batch: EventBatch,
        observed: Float[Array, "B F V h w C"],
        text_features: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
    ) -> Float[Array, "B S"]:
        """Log control steps of every event, fp32; 0 for empty segments."""
        anchors, known = of_anchors(batch, observed)
        patches = patchify(anchors, self.variant.patch)
        real = of_anchors(batch, real_views(batch))[0] & known[..., None]
        steps = self.duration_head(patches, real, text_features, text_mask, batch.state, batch.dof_mask)
        return jnp.where(batch.segment_mask, steps, 0.0)

    def _asked(self, batch, text_features, text_mask):
        """What a keyframe reader reads of every event, N = B * S: no text but an event's own, for the places of all
        that an instruction names are not where the robot is to go next."""
        if batch.frames is None:
            raise InputError("batch.frames", None, "frames: keyframe readers look at pixels, not at latents")
        pictures, known = of_anchors(batch, batch.frames[:, :, -1])
        real = of_anchors(batch, real_views(batch))[0] & known[..., None]
        shown = text_mask & (batch.segment_mask & batch.told_event)[..., None]
        given = (pictures.astype(jnp.float32) / 127.5 - 1.0, real, text_features, shown)
        return Asked(*(part.reshape(-1, *part.shape[2:]) for part in given))

    def _codec(self):
        if self.variant.codec is None:
            raise InputError("variant.codec", None, "a codec: this variant takes latents only")
        return self.variant.codec

    def _with_keyframes(self, batch: EventBatch, noisy: Array, observed: Array) -> Array:
        return jnp.where(observed_slots(batch)[:, :, None, None, None, None], observed, noisy)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.variant.patch, width // self.variant.patch

    def _video_inputs(self, batch, noisy, observed, time, text, text_mask, sketch, sight_cones):
        """Tokens, and (the blocks' context, the slots' time embedding)."""
        rows, slots, views, height, width, _ = noisy.shape
        grid, row = self._grid(height, width), self.variant
        patches, pairs = grid[0] * grid[1], row.embed // row.heads // 2
        embedding, modulation = self.video_tower.modulations(time, batch.frame_segment_ids)
        within = positions.within_view_angles(batch.frame_positions, *grid, pairs).reshape(rows, slots * patches, pairs)
        across = positions.cross_view_angles(batch.frame_positions, *grid, self.video_tower.view_angles, pairs)
        real, visible = real_views(batch), None
        if sight_cones:
            pixels = row.patch * self._codec().spatial_compression
            cameras = (batch.intrinsics, batch.extrinsics, batch.camera_mask)
            visible = masks.sight_cone_mask(*cameras, grid, pixels, row.reach)
        readable = gather_segments(text_mask & batch.segment_mask[..., None], batch.frame_segment_ids)
        context = VideoContext(
            modulation=modulation,
            within_view_rotation=positions.rotation(within),
            within_view_mask=masks.within_view_mask(batch.frame_segment_ids, real, patches),
            cross_view_rotation=positions.rotation(across.reshape(*joined(rows, slots), views * patches, pairs)),
            cross_view_mask=masks.cross_view_mask(real, patches, visible),
            text=exchange(self.video_tower.embed_text(text), "rows segments letters embed"),
            text_segments=batch.frame_segment_ids,
            text_mask=attention_mask(readable.reshape(*joined(rows, slots), 1, -1)),
        )
        return self.video_tower.embed(noisy, observed, observed_slots(batch), sketch), (context, embedding)

    def _video_velocity(self, batch, tokens, embedding, noisy, observed, time, sketch):
        predicted = self.video_tower.predict(tokens, embedding, self._grid(*noisy.shape[3:5]))
        if self.variant.prediction == "velocity":
            return predicted
        base = _of_own_anchors(batch, observed) if sketch is None else sketch.painted
        slot_time = gather_segments(time, batch.frame_segment_ids)[:, :, None, None, None, None]
        # How much of the anchor's cell is gone: what moves away need not be drawn with the opposite sign.
        change, gone = predicted[..., :-1], predicted[..., -1:]
        clean = (1.0 - gone) * base + change
        return velocity_of_clean(noisy, clean, slot_time, self.variant.min_time)

    def _action_inputs(self, batch, noisy, time, found):
        """Tokens, and (the blocks' context, the tokens' time embedding)."""
        draws, row = noisy.shape[1], self.variant
        grid = (row.cells // row.patch,) * 2
        patches, pairs = grid[0] * grid[1], row.action_embed // row.action_heads // 2
        ids = jnp.where(batch.action_mask, batch.action_segment_ids, 0)
        anchors = gather_segments(batch.anchor_positions, ids)
        frames = positions.from_anchor(batch.action_frames, anchors, row.max_latent_frames)
        embedding, modulation = self.action_tower.modulations(time, ids)
        angles = jnp.repeat(positions.axis_angles(batch.action_positions, pairs), draws, axis=0)
        angles = angles.reshape(*joined(len(noisy), draws), -1, pairs)
        within = attention_mask(masks.same_segment(ids, ids, batch.action_mask))
        across = masks.coupling_mask(ids, batch.frame_segment_ids, real_views(batch), patches)
        anchors = gather_segments(batch.anchor_positions, batch.frame_segment_ids)
        video_frames = positions.from_anchor(batch.frame_positions, anchors, row.max_latent_frames)
        context = action_dit.ActionContext(
            modulation=modulation,
            rotation=positions.rotation(angles),
            mask=masks.repeat_batch(within, draws),
            state=self.action_tower.embed_state(batch.state, batch.dof_mask) + found,
            segments=ids,
            video_position=self.action_tower.video_positions(video_frames, batch.frame_times, grid),
            video_mask=masks.repeat_queries(across, draws),
        )
        dof = gather_segments(batch.dof_mask, ids)
        return self.action_tower.embed(noisy, dof, frames, batch.action_times), (context, embedding)

    def _action_velocity(self, batch, tokens, embedding, noisy, time):
        ids = jnp.where(batch.action_mask, batch.action_segment_ids, 0)
        predicted = self.action_tower.predict(tokens, embedding)
        if self.variant.action_prediction == "clean":
            slot_time = jax.vmap(gather_segments, in_axes=(1, None), out_axes=1)(time, ids)[..., None]
            predicted = velocity_of_clean(noisy, predicted, slot_time, self.variant.min_time)
        return jnp.where(gather_segments(batch.dof_mask, ids)[:, None], predicted, 0.0)


def velocity_of_clean(noisy: Array, clean: Array, time: Array, min_time: float) -> Array:
    """(z_t - z_0) / t, which equals eps - z_0; t is kept above `min_time`."""
    return (noisy - clean) / jnp.maximum(time, min_time)


def _heads(width: int, heads: int) -> dict[str, int]:
    return {"heads": heads, "head_dim": width // heads}


def _of_own_anchors(batch: EventBatch, values: Array) -> Array:
    """Values `[B, F, ...]` at the anchor of every slot's own event."""
    return gather_segments(of_anchors(batch, values)[0], batch.frame_segment_ids)
