"""What the recorder keeps of one episode, whichever expert drove it."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.types import Event

CONTROL_HZ = 20.0
STATE_NAMES = ("x", "y", "z", "gripper")


class EpisodeFailed(Exception):
    """The expert did not reach a goal: the episode is not worth keeping."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One episode of T frames at the control rate, V views. `action[t]` was commanded after frame t was seen.

    State and action: x, y, z (unified world frame: x forward, y left, z up, metres) and gripper opening (0..1).
    """

    seed: int
    program: str
    task: str
    views: tuple[str, ...]
    state: Float[np.ndarray, "T 4"]
    action: Float[np.ndarray, "T 4"]
    frames: UInt8[np.ndarray, "T _ H W 3"]
    """V views, or 0 where none were rendered."""
    intrinsics: Float[np.ndarray, "T V 3 3"]
    """Pixels."""
    extrinsics: Float[np.ndarray, "T V 4 4"]
    """World to camera, OpenCV axes, metres."""
    events: tuple[Event, ...]
    """Consecutive events share borders and cover the episode."""
    recovery: tuple[bool, ...]
    """Whether the event holds a perturbation and its correction."""
    places: tuple[dict[str, np.ndarray], ...] = ()
    """True object places at each event's start, for diagnosis: never written to a dataset."""
