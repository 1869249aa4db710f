"""What an inference mode offers to whoever serves robots with it: a policy, the closed loop, the rollouts."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PRNGKeyArray, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import ActionChunk
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.infer.history import History
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import Failure, hold
from wallwm_jax.infer.stage_timer import StageTimer

WAIT = 4
"""Control steps for which a robot holds its pose when its planner takes the task to be done."""


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """How a policy serves.

    Attributes:
      rows: robots that are served together; programs are compiled for this many, and fewer are padded.
      reasoning_rows: the same for the vision-language side; None for `rows`.
      seed: of the noise of calls that bring no key.
      checks: whether shapes, dtypes and finiteness of actions are asserted before they leave.
      timings: whether every stage is waited for and timed; without it a result's `seconds` holds the total alone.
    """

    rows: int = 1
    reasoning_rows: int | None = None
    seed: int = 0
    checks: bool = True
    timings: bool = True

    def __post_init__(self):
        for field in ("rows", "reasoning_rows"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InputError(f"policy.{field}", value, "at least 1")

    def timer(self) -> StageTimer | None:
        """A new timer, if stages are timed."""
        return StageTimer() if self.timings else None


class Prediction(NamedTuple):
    """What a mode says of one request."""

    actions: ActionChunk
    """Absolute unified poses (world frame), one a control step: finite and within limits, or holding still."""
    steps: int
    """Control steps that were asked for or expected; `actions` holds fewer if the mode cannot predict so many."""
    frames: UInt8[np.ndarray, "T V H W 3"] | None = None
    """The current observation and the dreamt frames; None without a dream, or after a failure."""
    failure: Failure | None = None
    """Why `actions` holds still instead of what the network said."""
    clipped: int = 0
    """Numbers of `actions` that were beyond the limits."""
    caption: str | None = None
    """The event that the actions perform, where somebody has put it into words."""
    ends_event: bool = False
    """Whether the actions go to the end of an event."""
    over: str | None = None
    """The caption of an event that is expected to be over once the actions have been executed."""
    finished: bool = False
    """Whether the model's planner takes the task to be done; the actions then hold the pose for a moment."""


def waiting(request: Request, control_hz: float) -> Prediction:
    """The robot's pose for `WAIT` control steps, because nothing is left to do."""
    seen = request.observation
    return Prediction(hold(seen.state, seen.dof_mask, WAIT, control_hz), WAIT, finished=True)


@runtime_checkable
class Driver(Protocol):
    """An inference mode of a trained run. It keeps nothing of the robots that it serves.

    Attributes:
      sources: names of what can say the text.
      missing: why a known source is not among them, by name.
      watches: control steps between the observations that the mode's history is made of; 0 for a mode without one.
      ends_events: whether a prediction is an event, of whose end the mode decides; False: a chunk of fixed length.
      steps: the most control steps of one prediction.
      warm_up_steps: numbers of steps for which `predict` compiles everything that it can ever run.
      origin: stage, step and number of parameters of the checkpoint, for people.
      timer: measures the stages, if there is one.
    """

    embodiment: Embodiment
    sources: Collection[str]
    missing: Mapping[str, str]
    watches: int
    ends_events: bool
    steps: int
    warm_up_steps: Sequence[int]
    origin: Mapping[str, Any]
    timer: StageTimer | None

    def history(self) -> History | None:
        """An empty history for one robot; None for a mode that reads none."""

    def predict(
        self,
        requests: Sequence[Request],
        histories: Sequence[History | None],
        source: str,
        *,
        steps: Sequence[int | None],
        key: PRNGKeyArray,
        dream: bool = False,
    ) -> list[Prediction]:
        """A prediction for each request; the present observation is the last of its history. The i-th uses the i-th
        stream of `key`. Raises InputError for requests that cannot be answered."""
