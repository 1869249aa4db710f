"""Length-aware caption drop (WALL-WM eq. 20): long events lose their caption more often.

DECIDE: L counts raw source frames of the whole event, before truncation and with the keyframe: `event_steps + 1`.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from wallwm_jax.core.errors import InputError
from wallwm_jax.objectives.portions import WHOLE, Portion


@dataclasses.dataclass(frozen=True)
class CaptionDrop:
    """rho rises by a half cosine from `low` at `low_frames` raw frames and fewer to `high` at `high_frames`."""

    low: float = 0.1
    high: float = 0.9
    low_frames: int = 129
    high_frames: int = 220

    def __post_init__(self):
        if not 0 <= self.low <= self.high <= 1:
            raise InputError("caption_drop", f"low {self.low}, high {self.high}", "0 <= low <= high <= 1")
        if not self.low_frames < self.high_frames:
            raise InputError("caption_drop.low_frames", self.low_frames, f"fewer than high_frames = {self.high_frames}")


def drop_probability(frames: Int[Array, "..."] | Float[Array, "..."], settings: CaptionDrop) -> Float[Array, "..."]:
    """rho(L) for events of `frames` raw frames."""
    span = settings.high_frames - settings.low_frames
    risen = jnp.clip((jnp.asarray(frames, jnp.float32) - settings.low_frames) / span, 0.0, 1.0)
    return settings.low + (settings.high - settings.low) * 0.5 * (1 - jnp.cos(jnp.pi * risen))


def drop_captions(
    key: PRNGKeyArray,
    text_mask: Bool[Array, "B S L"],
    event_steps: Int[Array, "B S"],
    settings: CaptionDrop,
    portion: Portion = WHOLE,
) -> Bool[Array, "B S L"]:
    """The mask with the captions of some events emptied, each event by its own draw."""
    kept = portion.uniform(key, event_steps.shape) >= drop_probability(event_steps + 1, settings)
    return text_mask & kept[..., None]
