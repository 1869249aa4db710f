"""`EventBatch` from arrays: an empty one, the fields that follow from a window's lengths, and `make_event_batch`, which
builds a training batch from a user's own latents or frames, actions and captions.

The loader (`packing`), the inference modes and `make_event_batch` fill positions, times, masks and segment ids with the
same two functions, `write_slots` and `write_steps`.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import ARMS, UNIFIED_DIMENSION, EventBatch
from wallwm_jax.data import text
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
    """Fills what follows from a window's real latent positions (neighbours, ascending) and its M = `history`: segment
    ids, positions, times and masks of the slots. Returns the index of these slots: `batch.frames[index]` is theirs."""
    index = (place.row, slice(place.slot + int(positions[0]), place.slot + int(positions[-1]) + 1))
    batch.frame_segment_ids[index] = place.segment + 1
    batch.frame_positions[index] = positions
    batch.frame_times[index] = (positions - history) * clock.steps_per_latent / clock.control_hz
    batch.frame_mask[index] = True
    batch.observed_mask[index] = positions <= history
    return index


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


def make_event_batch(
    actions: Iterable[ArrayLike],
    captions: Sequence[str],
    *,
    control_hz: float,
    steps_per_latent: int,
    latents: Iterable[ArrayLike] | None = None,
    frames: Iterable[ArrayLike] | None = None,
    spatial_compression: int | None = None,
    state: ArrayLike | None = None,
    dof_mask: ArrayLike | None = None,
    view_mask: ArrayLike | None = None,
    event_steps: Sequence[int] | None = None,
    history_latents: int = 0,
    slots: int | None = None,
    text_length: int | None = None,
) -> EventBatch:
    """A training batch of one event a row (S = 1), all fields filled. Events of different lengths are lists of arrays
    of different lengths; what is shorter than the longest is padded and masked.

    With `latents` alone the batch has no frames: the losses and the model read `batch.latents` instead of encoding
    frames, and a model that reads pixels besides (the guidance modules do) refuses it. With `frames` the model's codec
    encodes. Cameras and effectors are left unknown and no cell is a border; set those fields with `batch._replace`.

    Args:
      actions: of every event `[A_i, 26]`: unified targets relative to the anchor's pose, normalised to [-1, 1]
        (`Embodiment.encode` makes them of absolute poses). A_i control steps take 1 + M + ceil(A_i / K_p) latents.
      captions: of every event, encoded by `data.text`.
      control_hz: control steps a second.
      steps_per_latent: K_p, control steps that one future latent frame covers: 4 times the frame stride.
      latents: of every event `[F_i, V, h, w, C]`: M of history, the anchor, and the future's.
      frames: of every event `[1 + 4 (F_i - 1), V, H, W, 3]`, uint8; latent 0 holds frame 0, latent f >= 1 the frames
        4 (f - 1) + 1 to 4 f.
      spatial_compression: pixels a latent cell of the model's codec; needed for frames alone.
      state: `[B, 26]`, unified, at the anchor, normalised to [-1, 1]. None: zeros, the middle of the range.
      dof_mask: `[26]` or `[B, 26]`: degrees of freedom that the robot has. None: all.
      view_mask: `[B, V]`: views that the event was seen by. None: all.
      event_steps: control steps of every event before truncation. None: A_i.
      history_latents: M, latents before the anchor's (WALL-WM eq. 11); 0 is the event-centric window (eq. 10).
      slots: F, to pad to. None: the longest event's.
      text_length: L, to pad to. None: the longest caption's.

    Raises:
      InputError: a shape, dtype or length that does not fit, a number that is not finite, neither frames nor latents.
    """
    if not control_hz > 0:
        raise InputError("control_hz", control_hz, "control steps a second, above 0")
    if steps_per_latent < 1:
        raise InputError("steps_per_latent", steps_per_latent, "at least 1")
    if history_latents < 0:
        raise InputError("history_latents", history_latents, "at least 0")
    acts = [_checked(f"actions[{i}]", part, np.float32, ("A", UNIFIED_DIMENSION)) for i, part in enumerate(actions)]
    _check_count("captions", len(captions), acts)
    pictures, coded = _pictures(frames, acts), _latents(latents, acts)
    cells, spans = _cells_and_spans(pictures, coded, spatial_compression)
    clock = Clock(control_hz, steps_per_latent)
    for i, (part, span) in enumerate(zip(acts, spans, strict=True)):
        _check_steps(f"actions[{i}]", len(part), span - 1 - history_latents, steps_per_latent)
    known = (pictures or coded)[0]
    slots, text_length = slots or max(spans), text_length or max(text.token_count(caption) for caption in captions)
    if slots < max(spans):
        raise InputError("slots", slots, f"at least {max(spans)}, the longest event's")
    shape = BatchShape(
        rows=len(acts),
        slots=slots,
        actions=(slots - 1 - history_latents) * steps_per_latent,
        segments=1,
        views=known.shape[1],
        text_length=text_length,
        cells=cells,
        picture=pictures[0].shape[2:4] if pictures else None,
        channels=coded[0].shape[-1] if coded else None,
    )
    batch = empty_batch(shape)
    seen = _mask_rows("view_mask", view_mask, shape.rows, shape.views)
    for row, span in enumerate(spans):
        index = write_slots(batch, Place(row), np.arange(span), history_latents, clock)
        batch.view_mask[index] = seen[row]
        batch.border_mask[index] = True
        if pictures:
            batch.frames[index] = _grouped(pictures[row])
        if coded:
            batch.latents[index] = coded[row]
        batch.actions[write_steps(batch, Place(row), len(acts[row]), history_latents, clock)] = acts[row]
        batch.text[row, 0], batch.text_mask[row, 0] = text.encode(captions[row], text_length)
    totals = _totals(event_steps, [len(part) for part in acts])
    _write_events(batch, state, dof_mask, totals, history_latents)
    return batch


def _write_events(
    batch: EventBatch,
    state: ArrayLike | None,
    dof_mask: ArrayLike | None,
    totals: Int[np.ndarray, "B"],
    history: int,
) -> None:
    """The fields of whole events."""
    rows = len(totals)
    batch.dof_mask[:, 0] = _mask_rows("dof_mask", dof_mask, rows, UNIFIED_DIMENSION)
    if state is not None:
        given = _checked("state", state, np.float32, (rows, UNIFIED_DIMENSION))
        batch.state[:, 0] = np.where(batch.dof_mask[:, 0], given, 0.0)
    used = batch.dof_mask & batch.action_mask[..., None]
    batch.actions[...] = np.where(used, batch.actions, 0.0)
    batch.told_event[...] = batch.segment_mask[...] = True
    batch.anchor_positions[...] = history
    batch.event_steps[:, 0] = totals
    batch.truncated[:, 0] = totals > batch.action_mask.sum(1)


def _checked(field: str, value: ArrayLike, dtype: type, sizes: tuple[int | str, ...]) -> np.ndarray:
    """`value` as an array of the dtype; a size that is a name may be anything from 1."""
    array = np.asarray(value)
    fits = array.ndim == len(sizes) and all(
        have == want if isinstance(want, int) else have > 0 for have, want in zip(array.shape, sizes, strict=True)
    )
    if not fits:
        raise InputError(field, f"shape {array.shape}", f"[{', '.join(map(str, sizes))}]")
    if dtype is np.uint8:
        if array.dtype != np.uint8:
            raise InputError(field, array.dtype, "uint8")
        return array
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(field, "numbers that are not finite", "finite numbers")
    return array


def _check_count(field: str, found: int, actions: Sequence[np.ndarray]) -> None:
    if found != len(actions) or not found:
        raise InputError(field, f"{found} events", f"as many as `actions` has ({len(actions)}), and at least one")


def _check_steps(field: str, steps: int, future: int, steps_per_latent: int) -> None:
    least, most = (future - 1) * steps_per_latent + 1, future * steps_per_latent
    if future < 1 or not least <= steps <= most:
        expected = f"{least} to {most}: the event has {future} future latents of {steps_per_latent} steps"
        raise InputError(field, f"{steps} steps", expected if future > 0 else "at least one latent after the anchor's")


def _pictures(frames: Iterable[ArrayLike] | None, actions: Sequence[np.ndarray]) -> list[np.ndarray]:
    if frames is None:
        return []
    found = [_checked(f"frames[{i}]", part, np.uint8, ("T", "V", "H", "W", 3)) for i, part in enumerate(frames)]
    _check_count("frames", len(found), actions)
    for i, part in enumerate(found):
        if len(part) % FRAMES_PER_LATENT != 1:
            raise InputError(f"frames[{i}]", f"{len(part)} frames", f"1 + {FRAMES_PER_LATENT} N")
    return _alike("frames", found)


def _latents(latents: Iterable[ArrayLike] | None, actions: Sequence[np.ndarray]) -> list[np.ndarray]:
    if latents is None:
        return []
    found = [_checked(f"latents[{i}]", part, np.float32, ("F", "V", "h", "w", "C")) for i, part in enumerate(latents)]
    _check_count("latents", len(found), actions)
    return _alike("latents", found)


def _alike(field: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Raises InputError unless all events have the same sizes but for their length."""
    for i, part in enumerate(arrays):
        if part.shape[1:] != arrays[0].shape[1:]:
            raise InputError(f"{field}[{i}]", f"shape {part.shape}", f"[{part.shape[0]}, *{arrays[0].shape[1:]}]")
    return arrays


def _cells_and_spans(
    pictures: list[np.ndarray], coded: list[np.ndarray], compression: int | None
) -> tuple[tuple[int, int], list[int]]:
    """Latent cells of a picture and latent frames of every event, from frames, latents or, if they agree, both."""
    if not pictures and not coded:
        raise InputError("latents", "neither latents nor frames", "one of them")
    if not pictures:
        return coded[0].shape[2:4], [len(part) for part in coded]
    spans = [1 + len(part) // FRAMES_PER_LATENT for part in pictures]
    height, width = pictures[0].shape[2:4]
    if coded:
        sizes = [(len(part), part.shape[1]) for part in coded]
        if sizes != [(span, pictures[0].shape[1]) for span in spans]:
            raise InputError("latents", f"(latents, views) {sizes}", f"{spans} latents of the frames' views")
        return coded[0].shape[2:4], spans
    if compression is None or compression < 1:
        raise InputError("spatial_compression", compression, "the codec's pixels a latent cell")
    if height % compression or width % compression:
        raise InputError("frames", f"{height} x {width} pixels", f"multiples of {compression}, a latent cell")
    return (height // compression, width // compression), spans


def _grouped(frames: np.ndarray) -> np.ndarray:
    """[1 + 4 N, ...] -> [1 + N, 4, ...]: the first frame fills the first group, as in the codec's temporal rule."""
    filled = np.concatenate([np.repeat(frames[:1], FRAMES_PER_LATENT, 0), frames[1:]])
    return filled.reshape(-1, FRAMES_PER_LATENT, *frames.shape[1:])


def _mask_rows(field: str, mask: ArrayLike | None, rows: int, count: int) -> Bool[np.ndarray, "B n"]:
    """[B, n] of a mask that is missing (all True), one for all rows [n], or one a row."""
    if mask is None:
        return np.ones((rows, count), bool)
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape not in ((count,), (rows, count)):
        raise InputError(field, f"{mask.dtype} of shape {mask.shape}", f"bool [{count}] or [{rows}, {count}]")
    return np.broadcast_to(mask, (rows, count))


def _totals(event_steps: Sequence[int] | None, steps: Sequence[int]) -> Int[np.ndarray, "B"]:
    if event_steps is None:
        return np.asarray(steps, np.int32)
    if len(event_steps) != len(steps):
        raise InputError("event_steps", f"{len(event_steps)} events", len(steps))
    for i, (total, given) in enumerate(zip(event_steps, steps, strict=True)):
        if total < given:
            raise InputError(f"event_steps[{i}]", total, f"at least the {given} steps of `actions[{i}]`")
    return np.asarray(event_steps, np.int32)
