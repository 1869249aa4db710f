"""What the modes condition on, as an `EventBatch` of one event or chunk a row, without a future and without text."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import UNIFIED_DIMENSION, EventBatch, Observation
from wallwm_jax.data.batch_arrays import BatchShape, Clock, Place, empty_batch, write_slots, write_steps
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.settings import FRAMES_PER_LATENT, DataLayout, LoaderSettings
from wallwm_jax.data.statistics import Statistics
from wallwm_jax.infer.history import History


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSettings(DataLayout):
    """How an event's window is cut: as the loader that trained the model cut it."""

    max_latent_frames: int = 6
    """Latent slots of the longest event, keyframe included."""
    buckets: tuple[int, ...] = ()
    """Latent slots of the lengths that are compiled for, ascending; shorter events are padded up to the next, masked.
    Empty: half of the longest, and the longest. Many buckets waste less arithmetic, few less compilation."""

    observed_slots = 1

    def __post_init__(self):
        super().__post_init__()
        longest = self.max_latent_frames
        buckets = tuple(self.buckets) or tuple(sorted({max(longest // 2, 2), longest}))
        if list(buckets) != sorted(set(buckets)) or buckets[0] < 2 or buckets[-1] != longest:
            raise InputError("buckets", buckets, f"ascending, from 2 or more to max_latent_frames ({longest})")
        object.__setattr__(self, "buckets", buckets)

    @property
    def max_steps(self) -> int:
        """Control steps of the longest event."""
        return self.actions(self.max_latent_frames)

    def actions(self, bucket: int) -> int:
        """Control steps that a bucket's future latents cover."""
        return (bucket - 1) * self.steps_per_latent

    def bucket(self, steps: int) -> int:
        """Latent slots of the smallest bucket that holds `steps` control steps; else the longest."""
        if steps < 1:
            raise InputError("event steps", steps, "at least 1")
        needed = 1 + math.ceil(steps / self.steps_per_latent)
        return next((bucket for bucket in self.buckets if bucket >= needed), self.buckets[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkSettings(DataLayout):
    """How an observation-centred window is cut: as the loader that trained the model cut it (WALL-WM eq. 11)."""

    history_latents: int = 2
    future_latents: int = 2

    def __post_init__(self):
        super().__post_init__()
        for field, least in (("history_latents", 0), ("future_latents", 1)):
            if getattr(self, field) < least:
                raise InputError(field, getattr(self, field), f"at least {least}")

    @classmethod
    def of(cls, loader: LoaderSettings) -> "ChunkSettings":
        """The windows of a loader; raises InputError if it has no history."""
        if loader.history is None:
            raise InputError("data.history", None, "settings of observation-centred windows")
        history = loader.history
        return cls(
            frame_stride=loader.frame_stride,
            history_latents=history.history_latents,
            future_latents=history.future_latents,
            text_length=loader.batch_text_length,
            spatial_compression=loader.spatial_compression,
        )

    @property
    def steps(self) -> int:
        """H_a: control steps of a chunk."""
        return self.future_latents * self.steps_per_latent

    @property
    def observed_slots(self) -> int:
        """M + 1 latent slots: the history and the anchor."""
        return self.history_latents + 1

    @property
    def buckets(self) -> tuple[int, ...]:
        """The one number of latent slots, M + 1 + N."""
        return (self.observed_slots + self.future_latents,)

    def actions(self, bucket: int) -> int:
        """Action slots of the one bucket."""
        return (bucket - self.observed_slots) * self.steps_per_latent


class _Rows(NamedTuple):
    """What differs between the rows of a batch and between the modes. Padding rows hold zeros."""

    frames: UInt8[np.ndarray, "B F R V H W 3"]
    frame_mask: Bool[np.ndarray, "B F"]
    view_mask: Bool[np.ndarray, "B F V"]
    state: Float[np.ndarray, "B 26"]
    """Normalised."""
    dof_mask: Bool[np.ndarray, "B 26"]
    steps: Int[np.ndarray, "B"]
    """Control steps asked for; 0 in padding."""


def condition_batch(
    observations: Sequence[Observation],
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
    given = _empty(rows, bucket, observations[0].views.shape)
    for row, (observation, count) in enumerate(zip(observations, steps, strict=True)):
        given.frames[row, 0] = observation.views
        covered = min(count, settings.actions(bucket))
        given.frame_mask[row] = np.arange(bucket) <= -(-covered // settings.steps_per_latent)
        given.view_mask[row] = given.frame_mask[row, :, None] & observation.view_mask
        _write_state(given, row, observation.state, observation.dof_mask, embodiment, statistics)
        given.steps[row] = count
    return _batch(given, embodiment, settings)


def chunk_batch(
    histories: Sequence[History], rows: int, embodiment: Embodiment, statistics: Statistics, settings: ChunkSettings
) -> EventBatch:
    """`rows` rows of M + 1 + N latent slots; the first `len(histories)` hold one chunk each, the rest are padding.

    Slots of the history that are not there are masked. Future frames are zero, cameras unknown, as for events.
    """
    observed, bucket = settings.observed_slots, settings.buckets[-1]
    given = _empty(rows, bucket, histories[0].shape)
    for row, history in enumerate(histories):
        real, seen = history.write(given.frames[row, :observed])
        given.frame_mask[row, :observed], given.frame_mask[row, observed:] = real, True
        given.view_mask[row, :observed], given.view_mask[row, observed:] = seen, seen[-1]
        _write_state(given, row, history.state, history.dof_mask, embodiment, statistics)
        given.steps[row] = settings.steps
    return _batch(given, embodiment, settings)


def _empty(rows: int, slots: int, views: tuple[int, ...]) -> _Rows:
    return _Rows(
        frames=np.zeros((rows, slots, FRAMES_PER_LATENT, *views), np.uint8),
        frame_mask=np.zeros((rows, slots), bool),
        view_mask=np.zeros((rows, slots, views[0]), bool),
        state=np.zeros((rows, UNIFIED_DIMENSION), np.float32),
        dof_mask=np.zeros((rows, UNIFIED_DIMENSION), bool),
        steps=np.zeros(rows, np.int32),
    )


def _write_state(
    given: _Rows, row: int, state: np.ndarray, dof: np.ndarray, embodiment: Embodiment, statistics: Statistics
) -> None:
    given.dof_mask[row] = dof
    given.state[row] = np.where(dof, embodiment.encode_state(state, statistics), 0.0)


def _batch(given: _Rows, embodiment: Embodiment, settings: WindowSettings | ChunkSettings) -> EventBatch:
    """The anchor is the last of the `observed_slots`; positions, times and action steps count from it."""
    (rows, bucket, _, views, height, width, _), anchor = given.frames.shape, settings.observed_slots - 1
    shape = BatchShape(
        rows=rows,
        slots=bucket,
        actions=settings.actions(bucket),
        segments=1,
        views=views,
        text_length=settings.text_length,
        cells=(height // settings.spatial_compression, width // settings.spatial_compression),
        picture=None,
    )
    batch, clock = empty_batch(shape), Clock(embodiment.control_hz, settings.steps_per_latent)
    for row, steps in enumerate(given.steps.tolist()):
        if steps:
            write_slots(batch, Place(row), np.flatnonzero(given.frame_mask[row]), anchor, clock)
            write_steps(batch, Place(row), min(steps, shape.actions), anchor, clock)
    batch.border_mask[...] = given.view_mask[..., None, None]
    batch.anchor_positions[...] = anchor
    return batch._replace(
        frames=given.frames,
        view_mask=given.view_mask,
        dof_mask=given.dof_mask[:, None],
        state=given.state[:, None],
        segment_mask=(given.steps > 0)[:, None],
        event_steps=given.steps[:, None],
        truncated=(given.steps > shape.actions)[:, None],
    )
