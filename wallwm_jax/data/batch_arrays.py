"""The arrays of an `EventBatch`: an empty one, and the fields that follow from a window's place and lengths.

The loader (`packing`), the inference modes and `make_event_batch` fill positions, times, masks and segment ids with the
same two functions, `write_slots` and `write_steps`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from wallwm_jax.core.types import ARMS, UNIFIED_DIMENSION, EventBatch
from wallwm_jax.data.settings import FRAMES_PER_LATENT


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch, by the letters of `core.types`.

    Attributes:
      rows, slots, actions, segments, views, text_length: B, F, A, S, V, L.
      cells: latent cells (h, w).
      picture: pixels (H, W), or None for a batch without frames.
      channels: latent channels C, or None for a batch without latents.
    """

    rows: int
    slots: int
    actions: int
    segments: int
    views: int
    text_length: int
    cells: tuple[int, int]
    picture: tuple[int, int] | None
    channels: int | None = None


class Clock(NamedTuple):
    """How control steps, latent frames and seconds go together."""

    control_hz: float
    steps_per_latent: int
    """K_p: control steps that one future latent frame covers."""


def empty_batch(shape: BatchShape) -> EventBatch:
    """A batch of padding only. Unused cameras are identity matrices, which stay invertible."""
    rows, slots, views = shape.rows, shape.slots, shape.views
    eye = [np.broadcast_to(np.eye(n, dtype=np.float32), (rows, slots, views, n, n)).copy() for n in (3, 4)]

    def integers(*sizes: int) -> np.ndarray:
        return np.zeros((rows, *sizes), np.int32)

    def numbers(*sizes: int) -> np.ndarray:
        return np.zeros((rows, *sizes), np.float32)

    def masks(*sizes: int) -> np.ndarray:
        return np.zeros((rows, *sizes), bool)

    frames, latents = None, None
    if shape.picture is not None:
        frames = np.zeros((rows, slots, FRAMES_PER_LATENT, views, *shape.picture, 3), np.uint8)
    if shape.channels is not None:
        latents = numbers(slots, views, *shape.cells, shape.channels)
    return EventBatch(
        frames=frames,
        frame_segment_ids=integers(slots),
        frame_positions=integers(slots),
        frame_times=numbers(slots),
        frame_mask=masks(slots),
        observed_mask=masks(slots),
        view_mask=masks(slots, views),
        border_mask=masks(slots, views, *shape.cells),
        intrinsics=eye[0],
        extrinsics=eye[1],
        camera_mask=masks(slots, views),
        effectors=numbers(slots, FRAMES_PER_LATENT, len(ARMS), 3),
        effector_mask=masks(slots, FRAMES_PER_LATENT, len(ARMS)),
        actions=numbers(shape.actions, UNIFIED_DIMENSION),
        action_segment_ids=integers(shape.actions),
        action_positions=integers(shape.actions),
        action_frames=integers(shape.actions),
        action_times=numbers(shape.actions),
        action_mask=masks(shape.actions),
        dof_mask=masks(shape.segments, UNIFIED_DIMENSION),
        state=numbers(shape.segments, UNIFIED_DIMENSION),
        text=integers(shape.segments, shape.text_length),
        text_mask=masks(shape.segments, shape.text_length),
        told_event=masks(shape.segments),
        segment_mask=masks(shape.segments),
        anchor_positions=integers(shape.segments),
        event_steps=integers(shape.segments),
        truncated=masks(shape.segments),
        event_rows=integers(shape.segments) - 1,
        latents=latents,
    )


class Place(NamedTuple):
    """Where a window stands in a batch."""

    row: int
    segment: int = 0
    slot: int = 0
    """Latent slot of the window's position 0."""
    step: int = 0
    """Action slot of the window's step 0."""


def write_slots(
    batch: EventBatch, place: Place, positions: Int[np.ndarray, "n"], history: int, clock: Clock
) -> tuple[int, slice]:
    """Fills what follows from a window's real latent positions (ascending) and its M = `history`: segment ids,
    positions, times and masks of the slots. Returns the index of the slots from the first to the last of them:
    `batch.frames[index]` is a view of theirs if, as the loader's are, they are neighbours."""
    index = (place.row, place.slot + positions)
    batch.frame_segment_ids[index] = place.segment + 1
    batch.frame_positions[index] = positions
    batch.frame_times[index] = (positions - history) * clock.steps_per_latent / clock.control_hz
    batch.frame_mask[index] = True
    batch.observed_mask[index] = positions <= history
    return place.row, slice(place.slot + int(positions[0]), place.slot + int(positions[-1]) + 1)


def write_steps(batch: EventBatch, place: Place, steps: int, history: int, clock: Clock) -> tuple[int, slice]:
    """Fills what follows from a window's number of action slots and its M = `history`: segment ids, positions, latent
    frames, times and mask of the steps. Returns the index of these steps: `batch.actions[index]` is theirs."""
    index, order = (place.row, slice(place.step, place.step + steps)), np.arange(steps)
    batch.action_segment_ids[index] = place.segment + 1
    batch.action_positions[index] = order
    batch.action_frames[index] = history + order // clock.steps_per_latent + 1
    batch.action_times[index] = (order + 1) / clock.control_hz
    batch.action_mask[index] = True
    return index
