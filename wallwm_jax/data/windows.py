"""Which frames and actions of an episode one window takes, and how many slots: event-centric and observation-centred.

Event-centric (WALL-WM eq. 10): frame `anchor` is the keyframe, at latent position 0. Latent frame f >= 1 holds the
sampled frames 4(f - 1) + 1 .. 4f, `frame_stride` source frames apart (section 3, temporal rule 1 + 4N -> 1 + N).

Observation-centred (eq. 11): the same rule over a buffer of 1 + 4M + 4N sampled frames whose frame 4M is the current
one. Position 0 holds the buffer's first frame, the anchor is position M, and with M = 0 the two kinds are one.

DECIDE: a latent whose frames end before it does is completed by holding the last one; its nominal times run on, so that
latent frame f always stands for the control steps up to (f - M) K_p. An event ends with itself, and so does an
observation-centred window that is told the event at its anchor: the caption says nothing of what comes next, and a
chunk that went on all the same would teach event mode to turn away before it is done. Told the task, a window ends with
the episode. At the other end, the slot that the episode's first frame falls in is filled by repeating it, as the codec
fills the first slot of every clip. Slots of which the episode has no frame are masked.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.sampling import Draw
from wallwm_jax.data.settings import FRAMES_PER_LATENT, LoaderSettings

FEWEST_STEPS = 4
"""Control steps that moving the anchor leaves of an event or episode, if it has as many."""


class Window(NamedTuple):
    """The part of an episode that a training example shows: what lies in [anchor, end), and some history before it."""

    row: int
    """Index row whose caption is read."""
    episode: int
    anchor: int
    end: int
    slots: int
    """Latent frames, history and anchor included."""
    truncated: bool
    history: int = 0
    """M: latent frames before the anchor's."""
    told_event: bool = True
    """Whether the row's caption is the event's, not the task's."""

    @property
    def steps(self) -> int:
        """Control steps from the anchor to the end, before truncation."""
        return self.end - self.anchor

    def action_steps(self, settings: LoaderSettings) -> int:
        """Action slots: the control steps that the window's future latent frames cover."""
        return min(self.steps, (self.slots - 1 - self.history) * settings.steps_per_latent)


def make_window(curated: CuratedDataset, draw: Draw, settings: LoaderSettings) -> Window:
    """The window of a draw; `anchor_jitter` moves the anchor up to that fraction of the event into it."""
    if draw.observation:
        return _observation_window(curated, draw, settings)
    columns = curated.index.columns
    start, end = int(columns["start"][draw.row]), int(columns["end"][draw.row])
    steps = end - start
    moved = int(draw.jitter * settings.anchor_jitter * steps)
    anchor = start + max(0, min(moved, steps - FEWEST_STEPS))
    wanted = 1 + -(-(end - anchor) // settings.steps_per_latent)
    slots = min(wanted, settings.max_latent_frames)
    return Window(draw.row, int(columns["episode"][draw.row]), anchor, end, slots, wanted > slots)


def _observation_window(curated: CuratedDataset, draw: Draw, settings: LoaderSettings) -> Window:
    """The window around row `draw.row` of the window index; told the task, it may cross the borders of events."""
    index, history = curated.windows(settings), settings.history
    episode, grid = int(index.columns["episode"][draw.row]), int(index.columns["anchor"][draw.row])
    length = curated.length(episode)
    moved = int(draw.jitter * settings.anchor_jitter * index.spacing)
    anchor = grid + max(0, min(moved, length - FEWEST_STEPS - grid))
    event = curated.event_at(episode, anchor)
    told_task = event < 0 or draw.level < history.task_share
    row, last = (curated.task_row(episode), length) if told_task else (event, int(curated.index.columns["end"][event]))
    end = min(anchor + settings.chunk_steps, last)
    return Window(row, episode, anchor, end, history.slots, False, history.history_latents, not told_task)


def observed_offsets(history: int, stride: int) -> Int[np.ndarray, "O 4"]:
    """Source frames of the O = M + 1 observed latents, counted from the anchor's frame: 0 and less."""
    sampled = np.arange(1 - FRAMES_PER_LATENT, history * FRAMES_PER_LATENT + 1)
    return (np.maximum(sampled, 0) - history * FRAMES_PER_LATENT).reshape(-1, FRAMES_PER_LATENT) * stride


def observed_indices(window: Window, settings: LoaderSettings) -> tuple[Int[np.ndarray, "O 4"], Bool[np.ndarray, "O"]]:
    """Source frames of the window's history and anchor, and which of these slots the episode has frames for."""
    wanted = window.anchor + observed_offsets(window.history, settings.frame_stride)
    return np.maximum(wanted, 0), wanted[:, -1] >= 0


def frame_indices(window: Window, frames: int, settings: LoaderSettings) -> Int[np.ndarray, "N 4"]:
    """Source frames of the window's future latents, held at its last frame (frame `end`, if there is one)."""
    future = window.slots - 1 - window.history
    sampled = np.arange(1, future * FRAMES_PER_LATENT + 1) * settings.frame_stride
    return np.minimum(window.anchor + sampled, min(window.end, frames - 1)).reshape(-1, FRAMES_PER_LATENT)


def check_captions(curated: CuratedDataset, split: str, settings: LoaderSettings) -> None:
    """Raises InputError if a caption of the split does not fit its kind's length, before training rather than in the
    midst of it."""
    lengths = [("data.text_length", "action", settings.text_length)]
    if settings.history is not None:
        lengths += [("data.history.text_length", level, settings.history.text_length) for level in ("action", "task")]
    for field, level, length in lengths:
        for row in curated.index.select(split, level):
            try:
                curated.caption_tokens(row, length)
            except InputError as error:
                raise InputError(f"{field} (row {row}: {error.field})", error.found, error.expected) from error
