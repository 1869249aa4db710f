"""Event-centric windows: which frames and actions of an episode one event takes, and how many slots.

Frame `anchor` is the keyframe, at latent position 0. Latent frame f >= 1 holds the sampled frames 4(f - 1) + 1 .. 4f,
`frame_stride` source frames apart (WALL-WM section 3, temporal rule 1 + 4N -> 1 + N).

DECIDE: an event's last latent is completed by holding its final frame; its nominal times run on, so that latent frame f
always stands for the control steps up to f K_p (eq. 10).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.sampling import Draw
from wallwm_jax.data.settings import FRAMES_PER_LATENT, LoaderSettings

FEWEST_STEPS = 4
"""Control steps that re-anchoring leaves of an event, if it has as many."""


class Window(NamedTuple):
    """The part [anchor, end) of an event that a training example shows."""

    row: int
    episode: int
    anchor: int
    end: int
    slots: int
    """Latent frames, the keyframe included."""
    truncated: bool

    @property
    def steps(self) -> int:
        """Control steps from the anchor to the event's end, before truncation."""
        return self.end - self.anchor

    def action_steps(self, settings: LoaderSettings) -> int:
        """Action slots: the control steps that the window's latent frames cover."""
        return min(self.steps, (self.slots - 1) * settings.steps_per_latent)


def make_window(curated: CuratedDataset, draw: Draw, settings: LoaderSettings) -> Window:
    """The window of a draw; `anchor_jitter` moves the anchor up to that fraction of the event into it."""
    columns = curated.index.columns
    start, end = int(columns["start"][draw.row]), int(columns["end"][draw.row])
    steps = end - start
    moved = int(draw.jitter * settings.anchor_jitter * steps)
    anchor = start + max(0, min(moved, steps - FEWEST_STEPS))
    wanted = 1 + -(-(end - anchor) // settings.steps_per_latent)
    slots = min(wanted, settings.max_latent_frames)
    return Window(draw.row, int(columns["episode"][draw.row]), anchor, end, slots, wanted > slots)


def frame_indices(window: Window, frames: int, settings: LoaderSettings) -> Int[np.ndarray, "N 4"]:
    """Source frames of the window's future latents, held at the event's last frame (frame `end`, if there is one)."""
    sampled = np.arange(1, (window.slots - 1) * FRAMES_PER_LATENT + 1) * settings.frame_stride
    return np.minimum(window.anchor + sampled, min(window.end, frames - 1)).reshape(-1, FRAMES_PER_LATENT)


def check_captions(curated: CuratedDataset, rows: Int[np.ndarray, "N"], settings: LoaderSettings) -> None:
    """Raises InputError if a caption does not fit `text_length`, before training rather than in the midst of it."""
    for row in rows:
        try:
            curated.caption_tokens(row, settings.text_length)
        except InputError as error:
            raise InputError(f"data.text_length (row {row}: {error.field})", error.found, error.expected) from error
