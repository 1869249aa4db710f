"""Packing several events into a row of fixed length, with segment ids that keep them apart.

Events are drawn into a *pool* of many batches' rows by first fit, until one fits nowhere; then the pool's rows are
shuffled and cut into batches. A pool rather than a batch, because the draw that ends it is lost, and a long event is
the likelier to be lost: over one batch that would tell on the balance of the clusters, over a pool it is one draw in
hundreds. Pool p starts at draw p * 2^20, so a batch stays a pure function of (seed, step).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import ARMS, POSITION, UNIFIED_DIMENSION, EventBatch
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.sampling import Draw, EventSampler
from wallwm_jax.data.settings import FRAMES_PER_LATENT, LoaderSettings
from wallwm_jax.data.windows import Window, frame_indices, make_window, observed_indices

POOL_BATCHES = 64
DRAWS_PER_POOL = 2**20
_CHUNK = 256


class Pool(NamedTuple):
    """Rows of windows, `rows` of them to a batch, and the number of draws that fitted nowhere."""

    rows: tuple[tuple[Window, ...], ...]
    skipped: int

    @property
    def events(self) -> int:
        return sum(len(row) for row in self.rows)

    def efficiency(self, row_frames: int) -> float:
        """Share of latent slots that hold an event."""
        return sum(window.slots for row in self.rows for window in row) / (len(self.rows) * row_frames)


def first_fit(windows: Iterable[Window], rows: int, row_frames: int, segments: int) -> tuple[list[list[Window]], int]:
    """Puts each window into the first row with room for it; stops at the first that fits nowhere (skipped: 0 or 1)."""
    filled = [[] for _ in range(rows)]
    free, places = np.full(rows, row_frames), np.full(rows, segments)
    for window in windows:
        fits = (free >= window.slots) & (places > 0)
        row = int(fits.argmax())
        if not fits[row]:
            return filled, 1
        filled[row].append(window)
        free[row] -= window.slots
        places[row] -= 1
    return filled, 0


def make_pool(curated: CuratedDataset, sampler: EventSampler, settings: LoaderSettings, number: int) -> Pool:
    """Pool `number`: a pure function of the sampler (its seed), the settings and the number."""
    count = POOL_BATCHES * settings.rows
    first = number * DRAWS_PER_POOL

    def windows() -> Iterable[Window]:
        for chunk in range(first, first + DRAWS_PER_POOL, _CHUNK):
            for draw in sampler.draws(chunk, _CHUNK):
                yield make_window(curated, draw, settings)

    rows, skipped = first_fit(windows(), count, settings.row_frames, settings.segments)
    order = np.random.Generator(np.random.Philox(key=sampler.seed, counter=[first, 1, 0, 0])).permutation(count)
    return Pool(tuple(tuple(rows[i]) for i in order), skipped)


def observation_batch(
    curated: CuratedDataset, rows: Sequence[int] | Int[np.ndarray, "N"], settings: LoaderSettings, level: str
) -> EventBatch:
    """One observation-centred window a row (S = 1), anchored on the grid of the window index: for evaluation. `level`:
    "task" or "action", the caption that is read. Raises InputError without a fitting window index."""
    if level not in ("task", "action"):
        raise InputError("level", repr(level), "'task' or 'action'")
    curated.windows(settings)
    chosen = dataclasses.replace(settings.history, task_share=float(level == "task"))
    slots = chosen.slots
    shape = dataclasses.replace(
        settings, rows=len(rows), segments=1, row_frames=slots, max_latent_frames=slots, history=chosen
    )
    return pack(curated, [[make_window(curated, Draw(int(row), 0.0, True), shape)] for row in rows], shape)


def pack(curated: CuratedDataset, rows: Sequence[Sequence[Window]], settings: LoaderSettings) -> EventBatch:
    """The arrays of rows of windows: [B, F, ...], [B, A, ...] and [B, S, ...] as `EventBatch` says."""
    batch = empty_batch(curated, len(rows), settings)
    for number, windows in enumerate(rows):
        slot = action = 0
        for segment, window in enumerate(windows):
            _write_video(batch, number, segment, slot, window, curated, settings)
            _write_actions(batch, number, segment, action, window, curated, settings)
            slot += window.slots
            action += window.action_steps(settings)
    return batch


def event_batch(
    curated: CuratedDataset,
    rows: Sequence[int] | Int[np.ndarray, "N"],
    settings: LoaderSettings,
    row_frames: int | None = None,
) -> EventBatch:
    """One whole event a row (S = 1), anchored at its start: for evaluation.

    F is `row_frames`, a length bucket, or else the longest event's number of latent frames.
    """
    windows = [make_window(curated, Draw(int(row), 0.0), settings) for row in rows]
    longest = max(window.slots for window in windows)
    shape = dataclasses.replace(
        settings,
        rows=len(windows),
        segments=1,
        row_frames=row_frames or longest,
        max_latent_frames=longest,
        history=None,
    )
    return pack(curated, [[window] for window in windows], shape)


def empty_batch(curated: CuratedDataset, rows: int, settings: LoaderSettings) -> EventBatch:
    """A batch of padding only. Unused cameras are identity matrices, which stay invertible."""
    (height, width), views = curated.image_shape, len(curated.views)
    slots, actions, segments = settings.row_frames, settings.row_actions, settings.segments
    cells = (-(-height // settings.spatial_compression), -(-width // settings.spatial_compression))
    eye = [np.broadcast_to(np.eye(n, dtype=np.float32), (rows, slots, views, n, n)).copy() for n in (3, 4)]

    def integers(*shape: int) -> np.ndarray:
        return np.zeros((rows, *shape), np.int32)

    def numbers(*shape: int) -> np.ndarray:
        return np.zeros((rows, *shape), np.float32)

    def masks(*shape: int) -> np.ndarray:
        return np.zeros((rows, *shape), bool)

    return EventBatch(
        frames=np.zeros((rows, slots, FRAMES_PER_LATENT, views, height, width, 3), np.uint8),
        frame_segment_ids=integers(slots),
        frame_positions=integers(slots),
        frame_times=numbers(slots),
        frame_mask=masks(slots),
        observed_mask=masks(slots),
        view_mask=masks(slots, views),
        border_mask=masks(slots, views, *cells),
        intrinsics=eye[0],
        extrinsics=eye[1],
        camera_mask=masks(slots, views),
        effectors=numbers(slots, FRAMES_PER_LATENT, len(ARMS), 3),
        effector_mask=masks(slots, FRAMES_PER_LATENT, len(ARMS)),
        actions=numbers(actions, UNIFIED_DIMENSION),
        action_segment_ids=integers(actions),
        action_positions=integers(actions),
        action_frames=integers(actions),
        action_times=numbers(actions),
        action_mask=masks(actions),
        dof_mask=masks(segments, UNIFIED_DIMENSION),
        state=numbers(segments, UNIFIED_DIMENSION),
        text=integers(segments, settings.batch_text_length),
        text_mask=masks(segments, settings.batch_text_length),
        told_event=masks(segments),
        segment_mask=masks(segments),
        anchor_positions=integers(segments),
        event_steps=integers(segments),
        truncated=masks(segments),
        event_rows=integers(segments) - 1,
    )


def _write_video(
    batch: EventBatch,
    row: int,
    segment: int,
    slot: int,
    window: Window,
    curated: CuratedDataset,
    settings: LoaderSettings,
) -> None:
    frames = curated.frame_map(window.episode)
    sources, real = observed_indices(window, settings)
    future = frame_indices(window, len(frames), settings)
    sources = np.concatenate([sources, future])
    real = np.append(real, np.arange(len(future)) * settings.steps_per_latent < window.steps)
    # The real slots are neighbours: what is missing is missing at the ends.
    positions = np.flatnonzero(real)
    sources, place = sources[positions], (row, slice(slot + positions[0], slot + positions[-1] + 1))
    target = batch.frames[place]
    np.take(frames, sources.reshape(-1), axis=0, mode="clip", out=target.reshape(-1, *target.shape[2:]))
    batch.frame_segment_ids[place] = segment + 1
    batch.frame_positions[place] = positions
    seconds = (positions - window.history) * settings.steps_per_latent / curated.embodiment.control_hz
    batch.frame_times[place] = seconds
    batch.frame_mask[place] = True
    batch.observed_mask[place] = positions <= window.history
    batch.view_mask[place] = True
    batch.border_mask[place] = _visible_cells(curated, window.episode, batch.border_mask.shape[-2:], settings)
    cameras = curated.cameras(window.episode)
    batch.intrinsics[place] = cameras.intrinsics[sources[:, -1]]
    batch.extrinsics[place] = cameras.extrinsics[sources[:, -1]]
    batch.camera_mask[place] = cameras.known
    state = curated.state(window.episode)
    poses = state[np.minimum(sources, len(state) - 1)]
    for arm, part in enumerate(ARMS):
        known = curated.embodiment.dof_mask[part][POSITION].all()
        batch.effectors[place][..., arm, :] = poses[..., part][..., POSITION] if known else 0.0
        batch.effector_mask[place][..., arm] = known


def _write_actions(
    batch: EventBatch,
    row: int,
    segment: int,
    action: int,
    window: Window,
    curated: CuratedDataset,
    settings: LoaderSettings,
) -> None:
    steps, embodiment = window.action_steps(settings), curated.embodiment
    place = (row, slice(action, action + steps))
    anchor_state = curated.state(window.episode)[window.anchor]
    targets = curated.action(window.episode)[window.anchor : window.anchor + steps]
    batch.actions[place] = embodiment.encode(anchor_state, targets, curated.statistics)
    batch.action_segment_ids[place] = segment + 1
    batch.action_positions[place] = np.arange(steps)
    batch.action_frames[place] = window.history + np.arange(steps) // settings.steps_per_latent + 1
    batch.action_times[place] = np.arange(1, steps + 1) / embodiment.control_hz
    batch.action_mask[place] = True
    batch.dof_mask[row, segment] = embodiment.dof_mask
    batch.state[row, segment] = embodiment.encode_state(anchor_state, curated.statistics)
    tokens, known = curated.caption_tokens(window.row, settings.batch_text_length)
    batch.text[row, segment], batch.text_mask[row, segment] = tokens, known
    batch.told_event[row, segment] = window.told_event
    batch.segment_mask[row, segment] = True
    batch.anchor_positions[row, segment] = window.history
    batch.event_steps[row, segment] = window.steps
    batch.truncated[row, segment] = window.truncated
    batch.event_rows[row, segment] = window.row


def _visible_cells(
    curated: CuratedDataset, episode: int, cells: tuple[int, int], settings: LoaderSettings
) -> np.ndarray:
    """[V, h, w]: cells that lie wholly inside the picture and outside its black borders."""
    (height, width), size = curated.image_shape, settings.spatial_compression
    rows, columns = np.arange(cells[0]) * size, np.arange(cells[1]) * size
    visible = np.empty((len(curated.views), *cells), bool)
    for view, (top, bottom, left, right) in enumerate(curated.borders(episode)):
        inside_rows = (rows >= top) & (rows + size <= height - bottom)
        inside_columns = (columns >= left) & (columns + size <= width - right)
        visible[view] = inside_rows[:, None] & inside_columns
    return visible
