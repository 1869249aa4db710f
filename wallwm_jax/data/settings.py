"""What the loader is told: how a window is cut and how a row is filled. Lengths are named by what they count."""

import dataclasses
from collections.abc import Sequence

from wallwm_jax.core.config import Section, check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.data.resolutions import check_resolutions

FRAMES_PER_LATENT = 4
"""R: the codec's temporal compression (1 + 4N frames -> 1 + N latents)."""


@dataclasses.dataclass(frozen=True)
class HistorySettings:
    """Observation-centred windows (WALL-WM eq. 11): M history latents, the anchor, N future latents.

    Attributes:
      history_latents: M; 0 gives the event-centric layout with a chunk in the event's place.
      future_latents: N; a chunk has H_a = N K_p control steps.
      share: probability that a draw is observation-centred. The rest are event-centric windows, which keep event mode
        alive in the same weights.
      task_share: probability that such a window reads the episode's instruction (caption level Task) rather than the
        caption of the event at its anchor.
      text_length: tokens of its caption; instructions are longer than an event's caption.
    """

    history_latents: int = 2
    future_latents: int = 2
    share: float = 0.75
    task_share: float = 0.5
    text_length: int = 224

    def __post_init__(self):
        for field, least in (("history_latents", 0), ("future_latents", 1), ("text_length", 1)):
            if getattr(self, field) < least:
                raise InputError(f"data.history.{field}", getattr(self, field), f"at least {least}")
        for field in ("share", "task_share"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise InputError(f"data.history.{field}", getattr(self, field), "a probability")

    @property
    def slots(self) -> int:
        """Latent slots of a window: M + 1 + N."""
        return self.history_latents + 1 + self.future_latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataLayout:
    """What training and inference must agree on: how frames, captions and latent cells are laid out.

    Attributes:
      frame_stride: source frames a sampled frame.
      text_length: tokens of a caption.
      spatial_compression: pixels a side of a latent cell, which are the codec's.
    """

    frame_stride: int = 2
    text_length: int = 56
    spatial_compression: int = 8

    def __post_init__(self):
        for field in ("frame_stride", "text_length", "spatial_compression"):
            if getattr(self, field) < 1:
                raise InputError(f"data.{field}", getattr(self, field), "at least 1")

    @property
    def steps_per_latent(self) -> int:
        """K_p: control steps that one future latent frame covers."""
        return FRAMES_PER_LATENT * self.frame_stride


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderSettings(DataLayout):
    """Settings of windows and rows.

    DECIDE (WALL-WM 3): the paper's "65 latent frames, 129 raw at stride 2" does not add up, so `max_latent_frames`
    (latent slots of one event, keyframe included) and `frame_stride` stand explicitly.

    `anchor_jitter` is for training: the anchor moves up to that fraction of the event into it, an observation-centred
    window's up to that fraction of the way to the next anchor of its index. `history` None: events alone. All windows
    of a history have the same number of slots; rows are best filled if `row_frames` is a multiple of it.

    `resolutions`: (height, width) in pixels of the training batches, one of them a batch, all equally often; empty: the
    recording's. Evaluation keeps to the recording's.
    """

    rows: int = 8
    row_frames: int = 8
    segments: int = 4
    max_latent_frames: int = 6
    anchor_jitter: float = 0.0
    balance: bool = True
    history: HistorySettings | None = None
    resolutions: Sequence[Sequence[int]] = ()

    def __post_init__(self):
        super().__post_init__()
        for field in ("rows", "row_frames", "segments"):
            if getattr(self, field) < 1:
                raise InputError(f"data.{field}", getattr(self, field), "at least 1")
        if not 2 <= self.max_latent_frames <= self.row_frames:
            raise InputError("data.max_latent_frames", self.max_latent_frames, f"2 to row_frames ({self.row_frames})")
        if not 0.0 <= self.anchor_jitter <= 1.0:
            raise InputError("data.anchor_jitter", self.anchor_jitter, "a fraction from 0 to 1")
        object.__setattr__(self, "resolutions", tuple(tuple(size) for size in self.resolutions))
        check_resolutions("data.resolutions", self.resolutions, self.spatial_compression)
        if self.history is not None and self.history.slots > self.row_frames:
            raise InputError("data.row_frames", self.row_frames, f"at least the {self.history.slots} slots of a window")

    @classmethod
    def from_config(cls, config: Section) -> "LoaderSettings":
        """From a config's `data` section; an unknown key is refused."""
        check_keys(config, {field.name for field in dataclasses.fields(cls)}, "config.data")
        values = dict(config)
        if values.get("history") is not None:
            known = {field.name for field in dataclasses.fields(HistorySettings)}
            check_keys(values["history"], known, "config.data.history")
            values["history"] = HistorySettings(**values["history"])
        return cls(**values)

    @property
    def row_actions(self) -> int:
        """A: action slots of a row; enough for whatever fits its latent slots, since each event has a keyframe slot."""
        return (self.row_frames - 1) * self.steps_per_latent

    @property
    def chunk_steps(self) -> int:
        """H_a: control steps of an observation-centred window; raises InputError if there is no `history`."""
        if self.history is None:
            raise InputError("data.history", None, "settings of observation-centred windows")
        return self.history.future_latents * self.steps_per_latent

    @property
    def batch_text_length(self) -> int:
        """L: rows of one batch share it, so that the longer kind of caption sets it."""
        return max(self.text_length, self.history.text_length if self.history else 0)
