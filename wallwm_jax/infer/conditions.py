"""What event mode conditions on: observations and captions as an `EventBatch` of one event a row, without a future."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import UNIFIED_DIMENSION, EventBatch, Observation
from wallwm_jax.data import text
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.settings import FRAMES_PER_LATENT
from wallwm_jax.data.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """How an event's window is cut: as the loader that trained the model cut it."""

    frame_stride: int = 2
    max_latent_frames: int = 6
    """Latent slots of the longest event, keyframe included."""
    text_length: int = 56
    spatial_compression: int = 8
    buckets: tuple[int, ...] = ()
    """Latent slots of the lengths that are compiled for, ascending; shorter events are padded up to the next, masked.
    Empty: half of the longest, and the longest. Many buckets waste less arithmetic, few less compilation."""

    def __post_init__(self):
        longest = self.max_latent_frames
        buckets = tuple(self.buckets) or tuple(sorted({max(longest // 2, 2), longest}))
        if list(buckets) != sorted(set(buckets)) or buckets[0] < 2 or buckets[-1] != longest:
            raise InputError("buckets", buckets, f"ascending, from 2 or more to max_latent_frames ({longest})")
        object.__setattr__(self, "buckets", buckets)

    @property
    def steps_per_latent(self) -> int:
        """K_p: control steps that one future latent covers."""
        return FRAMES_PER_LATENT * self.frame_stride

    @property
    def max_steps(self) -> int:
        """Control steps of the longest event."""
        return (self.max_latent_frames - 1) * self.steps_per_latent

    def bucket(self, steps: int) -> int:
        """Latent slots of the smallest bucket that holds `steps` control steps; else the longest."""
        if steps < 1:
            raise InputError("event steps", steps, "at least 1")
        needed = 1 + math.ceil(steps / self.steps_per_latent)
        return next((bucket for bucket in self.buckets if bucket >= needed), self.buckets[-1])


def check_observations(observations: Sequence[Observation], captions: Sequence[str]) -> None:
    """Raises InputError unless there is one caption an observation and all images have one shape."""
    if len(observations) != len(captions):
        raise InputError("captions", len(captions), f"one for each of {len(observations)} observations")
    shapes = {observation.views.shape for observation in observations}
    if len(shapes) > 1:
        raise InputError("observation.views", sorted(shapes), "one shape [V, H, W, 3]")


def condition_batch(
    observations: Sequence[Observation],
    captions: Sequence[str],
    steps: Sequence[int],
    rows: int,
    bucket: int,
    embodiment: Embodiment,
    statistics: Statistics,
    settings: WindowSettings,
) -> EventBatch:
    """`rows` rows of `bucket` latent slots; the first `len(observations)` hold one event each, the rest are padding.

    Frames after the keyframe are zero: the model dreams them. Cameras are left unknown, since calibration is used in
    training alone (sight cones).
    """
    views, height, width = observations[0].views.shape[:3]
    per_latent, actions = settings.steps_per_latent, (bucket - 1) * settings.steps_per_latent
    real = np.arange(rows) < len(observations)
    lengths = np.zeros(rows, np.int32)
    lengths[: len(steps)] = np.minimum(steps, actions)
    latents = np.where(real, 1 + -(-lengths // per_latent), 0)
    frame_mask = np.arange(bucket) < latents[:, None]
    action_mask = np.arange(actions) < lengths[:, None]
    frames = np.zeros((rows, bucket, FRAMES_PER_LATENT, views, height, width, 3), np.uint8)
    seen, dof, state = np.zeros((rows, views), bool), np.zeros((rows, 1, 26), bool), np.zeros((rows, 1, 26), np.float32)
    tokens = np.zeros((rows, 1, settings.text_length), np.int32)
    token_mask = np.zeros(tokens.shape, bool)
    for row, (observation, caption) in enumerate(zip(observations, captions, strict=True)):
        frames[row, 0], seen[row], dof[row, 0] = observation.views, observation.view_mask, observation.dof_mask
        state[row, 0] = np.where(observation.dof_mask, embodiment.encode_state(observation.state, statistics), 0.0)
        tokens[row, 0], token_mask[row, 0] = text.encode(caption, settings.text_length)
    cells = (height // settings.spatial_compression, width // settings.spatial_compression)
    view_mask = frame_mask[..., None] & seen[:, None]
    total = np.zeros(rows, np.int32)
    total[: len(steps)] = steps
    return EventBatch(
        frames=frames,
        frame_segment_ids=frame_mask.astype(np.int32),
        frame_positions=np.where(frame_mask, np.arange(bucket), 0).astype(np.int32),
        frame_times=np.where(frame_mask, np.arange(bucket) * per_latent / embodiment.control_hz, 0).astype(np.float32),
        frame_mask=frame_mask,
        view_mask=view_mask,
        border_mask=np.broadcast_to(view_mask[..., None, None], (*view_mask.shape, *cells)).copy(),
        intrinsics=np.broadcast_to(np.eye(3, dtype=np.float32), (rows, bucket, views, 3, 3)),
        extrinsics=np.broadcast_to(np.eye(4, dtype=np.float32), (rows, bucket, views, 4, 4)),
        camera_mask=np.zeros((rows, bucket, views), bool),
        actions=np.zeros((rows, actions, UNIFIED_DIMENSION), np.float32),
        action_segment_ids=action_mask.astype(np.int32),
        action_positions=np.where(action_mask, np.arange(actions), 0).astype(np.int32),
        action_times=np.where(action_mask, (np.arange(actions) + 1) / embodiment.control_hz, 0).astype(np.float32),
        action_mask=action_mask,
        dof_mask=dof,
        state=state,
        text=tokens,
        text_mask=token_mask,
        segment_mask=real[:, None],
        event_steps=total[:, None],
        truncated=(total > lengths)[:, None],
        event_rows=np.full((rows, 1), -1, np.int32),
    )
