"""The result of one call of a policy."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.types import ActionChunk
from wallwm_jax.infer.safety import Failure


@dataclasses.dataclass(frozen=True)
class Inference:
    """Actions for one robot, with a record of how they were produced."""

    actions: Float[np.ndarray, "A n"]
    """In the robot's own layout: one command a control step, its numbers in the order of `names`."""
    names: tuple[str, ...]
    """The robot's names of what is commanded (the embodiment's `action` entries)."""
    unified: ActionChunk
    """The same in the unified layout."""
    steps: int
    """Control steps that were asked for or expected; `actions` holds fewer if the mode cannot predict so many."""
    source: str
    """Name of the text source that was used."""
    caption: str | None
    """The event being performed; None if the text source does not put it into words."""
    finished: bool
    """True if the model's planner considers the task done; `actions` then hold the current pose."""
    ends_event: bool
    """True if the actions run to the end of an event (event mode)."""
    failure: Failure | None
    """Why the actions hold the current pose instead of following the network; None if they follow it."""
    clipped: int
    """How many action values were outside the robot's recorded range and were clipped to its limits."""
    dreamt: bool
    """Whether a dream was requested."""
    frames: UInt8[np.ndarray, "T V H W 3"] | None
    """The dream: current frame and predicted frames. None unless requested, and after a failure."""
    seconds: Mapping[str, float]
    """Synchronised seconds per stage, for the whole call: "text", "encode", "noise", "video", "action", "decode",
    "reasoning" and "compile" where they ran, "host" for the rest, and "total". Without `PolicySettings.timings` only
    "total"."""

    def command(self, step: int) -> dict[str, float]:
        """The command of one control step by the robot's names."""
        return dict(zip(self.names, self.actions[step].tolist(), strict=True))
