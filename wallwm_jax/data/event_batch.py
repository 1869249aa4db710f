"""A training batch from a user's own arrays: latents or frames, actions and captions; the rest is filled in."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import UNIFIED_DIMENSION, EventBatch
from wallwm_jax.data import text
from wallwm_jax.data.batch_arrays import BatchShape, Clock, Place, empty_batch, write_slots, write_steps
from wallwm_jax.data.settings import FRAMES_PER_LATENT


class _Events(NamedTuple):
    """Checked arrays of B events; `frames` or `latents` may be empty lists."""

    actions: list[np.ndarray]
    captions: Sequence[str]
    frames: list[np.ndarray]
    latents: list[np.ndarray]
    slots: list[int]
    """Latent frames of every event."""
    cells: tuple[int, int]


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
    for field, value, least in (("steps_per_latent", steps_per_latent, 1), ("history_latents", history_latents, 0)):
        if value < least:
            raise InputError(field, value, f"at least {least}")
    events = _checked_events(actions, captions, latents, frames, spatial_compression)
    for i, (part, span) in enumerate(zip(events.actions, events.slots, strict=True)):
        _check_steps(f"actions[{i}]", len(part), span - 1 - history_latents, steps_per_latent)
    longest = max(events.slots)
    slots, text_length = slots or longest, text_length or max(text.token_count(caption) for caption in captions)
    if slots < longest:
        raise InputError("slots", slots, f"at least {longest}, the longest event's")
    clock = Clock(control_hz, steps_per_latent)
    batch = empty_batch(_shape(events, slots, (slots - 1 - history_latents) * steps_per_latent, text_length))
    rows, views = batch.view_mask.shape[0], batch.view_mask.shape[-1]
    seen = _mask_rows("view_mask", view_mask, rows, views)
    batch.dof_mask[:, 0] = _mask_rows("dof_mask", dof_mask, rows, UNIFIED_DIMENSION)
    for row in range(rows):
        _write_event(batch, row, events, history_latents, clock)
        batch.view_mask[row] = batch.frame_mask[row, :, None] & seen[row]
    if state is not None:
        given = _numbers("state", state, (rows, UNIFIED_DIMENSION))
        batch.state[:, 0] = np.where(batch.dof_mask[:, 0], given, 0.0)
    batch.event_steps[:, 0] = _totals(event_steps, [len(part) for part in events.actions])
    batch.truncated[:, 0] = batch.event_steps[:, 0] > batch.action_mask.sum(1)
    return batch


def _checked_events(
    actions: Iterable[ArrayLike],
    captions: Sequence[str],
    latents: Iterable[ArrayLike] | None,
    frames: Iterable[ArrayLike] | None,
    compression: int | None,
) -> _Events:
    acts = [_numbers(f"actions[{i}]", part, ("A", UNIFIED_DIMENSION)) for i, part in enumerate(actions)]
    _check_count("captions", len(captions), acts)
    pictures, coded = _pictures(frames, acts), _latents(latents, acts)
    cells, slots = _cells_and_slots(pictures, coded, compression)
    return _Events(acts, captions, pictures, coded, slots, cells)


def _shape(events: _Events, slots: int, steps: int, text_length: int) -> BatchShape:
    return BatchShape(
        rows=len(events.actions),
        slots=slots,
        actions=steps,
        segments=1,
        views=(events.frames or events.latents)[0].shape[1],
        text_length=text_length,
        cells=events.cells,
        picture=events.frames[0].shape[2:4] if events.frames else None,
        channels=events.latents[0].shape[-1] if events.latents else None,
    )


def _write_event(batch: EventBatch, row: int, events: _Events, history: int, clock: Clock) -> None:
    """Everything of one row but its views, its state and what was cut off."""
    index = write_slots(batch, Place(row), np.arange(events.slots[row]), history, clock)
    batch.border_mask[index] = True
    if events.frames:
        batch.frames[index] = _grouped(events.frames[row])
    if events.latents:
        batch.latents[index] = events.latents[row]
    actions = events.actions[row]
    index = write_steps(batch, Place(row), len(actions), history, clock)
    batch.actions[index] = np.where(batch.dof_mask[row], actions, 0.0)
    batch.text[row, 0], batch.text_mask[row, 0] = text.encode(events.captions[row], batch.text.shape[-1])
    batch.told_event[row] = batch.segment_mask[row] = True
    batch.anchor_positions[row] = history


def _array(field: str, value: ArrayLike, sizes: tuple[int | str, ...]) -> np.ndarray:
    """`value` as an array; a size that is a name may be anything from 1."""
    array = np.asarray(value)
    fits = array.ndim == len(sizes) and all(
        have == want if isinstance(want, int) else have > 0 for have, want in zip(array.shape, sizes, strict=True)
    )
    if not fits:
        raise InputError(field, f"shape {array.shape}", f"[{', '.join(map(str, sizes))}]")
    return array


def _numbers(field: str, value: ArrayLike, sizes: tuple[int | str, ...]) -> np.ndarray:
    """Finite fp32 numbers."""
    array = _array(field, value, sizes).astype(np.float32)
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
    found = [_array(f"frames[{i}]", part, ("T", "V", "H", "W", 3)) for i, part in enumerate(frames)]
    _check_count("frames", len(found), actions)
    for i, part in enumerate(found):
        if part.dtype != np.uint8:
            raise InputError(f"frames[{i}]", part.dtype, "uint8")
        if len(part) % FRAMES_PER_LATENT != 1:
            raise InputError(f"frames[{i}]", f"{len(part)} frames", f"1 + {FRAMES_PER_LATENT} N")
    return _alike("frames", found)


def _latents(latents: Iterable[ArrayLike] | None, actions: Sequence[np.ndarray]) -> list[np.ndarray]:
    if latents is None:
        return []
    found = [_numbers(f"latents[{i}]", part, ("F", "V", "h", "w", "C")) for i, part in enumerate(latents)]
    _check_count("latents", len(found), actions)
    return _alike("latents", found)


def _alike(field: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Raises InputError unless all events have the same sizes but for their length."""
    for i, part in enumerate(arrays):
        if part.shape[1:] != arrays[0].shape[1:]:
            raise InputError(f"{field}[{i}]", f"shape {part.shape}", f"[{part.shape[0]}, *{arrays[0].shape[1:]}]")
    return arrays


def _cells_and_slots(
    pictures: list[np.ndarray], coded: list[np.ndarray], compression: int | None
) -> tuple[tuple[int, int], list[int]]:
    """Latent cells of a picture and latent frames of every event, from frames, latents or, if they agree, both."""
    if not pictures and not coded:
        raise InputError("latents", "neither latents nor frames", "one of them")
    if not pictures:
        return coded[0].shape[2:4], [len(part) for part in coded]
    slots = [1 + len(part) // FRAMES_PER_LATENT for part in pictures]
    height, width = pictures[0].shape[2:4]
    if coded:
        sizes = [(len(part), part.shape[1]) for part in coded]
        if sizes != [(count, pictures[0].shape[1]) for count in slots]:
            raise InputError("latents", f"(latents, views) {sizes}", f"{slots} latents of the frames' views")
        return coded[0].shape[2:4], slots
    if compression is None or compression < 1:
        raise InputError("spatial_compression", compression, "the codec's pixels a latent cell")
    if height % compression or width % compression:
        raise InputError("frames", f"{height} x {width} pixels", f"multiples of {compression}, a latent cell")
    return (height // compression, width // compression), slots


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
