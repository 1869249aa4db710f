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
from wallwm_jax.core.types import ARMS, POSITION, EventBatch
from wallwm_jax.data.batch_arrays import BatchShape, Clock, Place, empty_batch, write_slots, write_steps
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.resolutions import Size, resize, scaled_intrinsics, visible_cells
from wallwm_jax.data.sampling import Draw, EventSampler
from wallwm_jax.data.settings import LoaderSettings
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


def pack(
    curated: CuratedDataset,
    rows: Sequence[Sequence[Window]],
    settings: LoaderSettings,
    picture: Size | None = None,
) -> EventBatch:
    """The arrays of rows of windows: [B, F, ...], [B, A, ...] and [B, S, ...] as `EventBatch` says. Frames are resized
    to `picture`, and what is said in pixels with them; None: they keep the recording's size."""
    batch = empty_batch(batch_shape(curated, len(rows), settings, picture or curated.image_shape))
    for number, windows in enumerate(rows):
        slot = step = 0
        for segment, window in enumerate(windows):
            place = Place(number, segment, slot, step)
            _write_video(batch, place, window, curated, settings)
            _write_actions(batch, place, window, curated, settings)
            slot += window.slots
            step += window.action_steps(settings)
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


def batch_shape(curated: CuratedDataset, rows: int, settings: LoaderSettings, picture: Size) -> BatchShape:
    """Sizes of the batches that the settings make of a dataset, with pictures of `picture` pixels."""
    height, width = picture
    return BatchShape(
        rows=rows,
        slots=settings.row_frames,
        actions=settings.row_actions,
        segments=settings.segments,
        views=len(curated.views),
        text_length=settings.batch_text_length,
        cells=(-(-height // settings.spatial_compression), -(-width // settings.spatial_compression)),
        picture=picture,
    )


def _write_video(
    batch: EventBatch, place: Place, window: Window, curated: CuratedDataset, settings: LoaderSettings
) -> None:
    frames = curated.frame_map(window.episode)
    sources, real = observed_indices(window, settings)
    future = frame_indices(window, len(frames), settings)
    sources = np.concatenate([sources, future])
    real = np.append(real, np.arange(len(future)) * settings.steps_per_latent < window.steps)
    # The real slots are neighbours: what is missing is missing at the ends.
    positions = np.flatnonzero(real)
    index = write_slots(batch, place, positions, window.history, _clock(curated, settings))
    sources, target = sources[positions], batch.frames[index]
    native, picture = frames.shape[2:4], target.shape[3:5]
    flat = target.reshape(-1, *target.shape[2:])
    if picture == native:
        np.take(frames, sources.reshape(-1), axis=0, mode="clip", out=flat)
    else:
        flat[...] = resize(np.take(frames, sources.reshape(-1), axis=0, mode="clip"), picture)
    batch.view_mask[index] = True
    borders = curated.borders(window.episode)
    batch.border_mask[index] = visible_cells(borders, native, picture, settings.spatial_compression)
    cameras = curated.cameras(window.episode)
    batch.intrinsics[index] = scaled_intrinsics(cameras.intrinsics[sources[:, -1]], native, picture)
    batch.extrinsics[index] = cameras.extrinsics[sources[:, -1]]
    batch.camera_mask[index] = cameras.known
    state = curated.state(window.episode)
    poses = state[np.minimum(sources, len(state) - 1)]
    for arm, part in enumerate(ARMS):
        known = curated.embodiment.dof_mask[part][POSITION].all()
        batch.effectors[index][..., arm, :] = poses[..., part][..., POSITION] if known else 0.0
        batch.effector_mask[index][..., arm] = known


def _write_actions(
    batch: EventBatch, place: Place, window: Window, curated: CuratedDataset, settings: LoaderSettings
) -> None:
    steps, embodiment, event = window.action_steps(settings), curated.embodiment, (place.row, place.segment)
    index = write_steps(batch, place, steps, window.history, _clock(curated, settings))
    anchor_state = curated.state(window.episode)[window.anchor]
    targets = curated.action(window.episode)[window.anchor : window.anchor + steps]
    batch.actions[index] = embodiment.encode(anchor_state, targets, curated.statistics)
    batch.dof_mask[event] = embodiment.dof_mask
    batch.state[event] = embodiment.encode_state(anchor_state, curated.statistics)
    tokens, known = curated.caption_tokens(window.row, settings.batch_text_length)
    batch.text[event], batch.text_mask[event] = tokens, known
    batch.told_event[event] = window.told_event
    batch.segment_mask[event] = True
    batch.anchor_positions[event] = window.history
    batch.event_steps[event] = window.steps
    batch.truncated[event] = window.truncated
    batch.event_rows[event] = window.row


def _clock(curated: CuratedDataset, settings: LoaderSettings) -> Clock:
    return Clock(curated.embodiment.control_hz, settings.steps_per_latent)
