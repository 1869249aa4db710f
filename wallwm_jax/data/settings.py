"""What the loader is told: how a window is cut and how a row is filled. Lengths are named by what they count."""

import dataclasses

from wallwm_jax.core.config import Section
from wallwm_jax.core.errors import InputError

FRAMES_PER_LATENT = 4
"""R: the codec's temporal compression (1 + 4N frames -> 1 + N latents)."""


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """Settings of windows and rows.

    DECIDE (WALL-WM 3): the paper's "65 latent frames, 129 raw at stride 2" does not add up, so `max_latent_frames`
    (latent slots of one event, keyframe included) and `frame_stride` (source frames a sampled frame) stand explicitly.

    `anchor_jitter` is for training: the anchor moves up to that fraction of the event into it.
    """

    rows: int = 8
    row_frames: int = 8
    segments: int = 4
    frame_stride: int = 2
    max_latent_frames: int = 6
    text_length: int = 56
    anchor_jitter: float = 0.0
    spatial_compression: int = 8
    balance: bool = True

    def __post_init__(self):
        for field in ("rows", "row_frames", "segments", "frame_stride", "text_length", "spatial_compression"):
            if getattr(self, field) < 1:
                raise InputError(f"data.{field}", getattr(self, field), "at least 1")
        if not 2 <= self.max_latent_frames <= self.row_frames:
            raise InputError("data.max_latent_frames", self.max_latent_frames, f"2 to row_frames ({self.row_frames})")
        if not 0.0 <= self.anchor_jitter <= 1.0:
            raise InputError("data.anchor_jitter", self.anchor_jitter, "a fraction from 0 to 1")

    @classmethod
    def from_config(cls, config: Section) -> "LoaderSettings":
        """From a config's `data` section; an unknown key is refused."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise InputError("data", f"unknown keys {unknown}", f"keys among {sorted(known)}")
        return cls(**dict(config))

    @property
    def steps_per_latent(self) -> int:
        """K_p: control steps that one future latent frame covers."""
        return FRAMES_PER_LATENT * self.frame_stride

    @property
    def row_actions(self) -> int:
        """A: action slots of a row; enough for whatever fits its latent slots, since each event has a keyframe slot."""
        return (self.row_frames - 1) * self.steps_per_latent
