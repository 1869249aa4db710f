"""The interface between an inference mode and the code that serves robots with it: policy, closed loop, rollouts."""

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
"""Control steps for which a robot holds its pose when its planner considers the task done."""


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """Settings of a policy.

    Attributes:
      rows: batch size that programs are compiled for; smaller batches are padded.
      reasoning_rows: batch size of the vision-language side; None for `rows`.
      seed: seed of the noise of calls without a key.
      checks: assert shapes, dtypes and finiteness of the actions before they are returned (`infer.boundary`).
      timings: synchronise after every stage and record its seconds; otherwise only the total is recorded.
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
        """A new timer if `timings` is on, else None."""
        return StageTimer() if self.timings else None


class Prediction(NamedTuple):
    """A mode's answer to one request."""

    actions: ActionChunk
    """Absolute unified poses (world frame), one a control step: finite and within limits, or holding still."""
    steps: int
    """Control steps requested or expected; `actions` holds fewer if the mode cannot predict that many."""
    frames: UInt8[np.ndarray, "T V H W 3"] | None = None
    """The current observation and the dreamt frames; None without a dream, or after a failure."""
    failure: Failure | None = None
    """Why `actions` holds the pose instead of following the network."""
    clipped: int = 0
    """How many values of `actions` were clipped to the limits."""
    caption: str | None = None
    """The event being performed; None if the text source does not put it into words."""
    ends_event: bool = False
    """True if the actions run to the end of an event."""
    over: str | None = None
    """Caption of an event that is expected to be complete once the actions have been executed."""
    finished: bool = False
    """True if the planner considers the task done; the actions then hold the pose for `WAIT` steps."""


def waiting(request: Request, control_hz: float) -> Prediction:
    """Holds the robot's pose for `WAIT` control steps: the task is done."""
    seen = request.observation
    return Prediction(hold(seen.state, seen.dof_mask, WAIT, control_hz), WAIT, finished=True)


@runtime_checkable
class Driver(Protocol):
    """An inference mode of a trained run. Stateless: per-robot history and memory are passed in.

    Attributes:
      sources: names of the available text sources.
      missing: the reason why each other known source is unavailable, by name.
      watches: control steps between the observations of the history; 0 for a mode without a history.
      ends_events: True if a prediction is a whole event; False if it is a chunk of fixed length.
      steps: maximum number of control steps of a prediction.
      warm_up_steps: values of `steps` that together make `predict` compile every program it can run.
      origin: stage, step and parameter count of the checkpoint, for display.
      timer: records the seconds of each stage; None to leave stages unsynchronised.
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
        """An empty history for one robot; None for a mode without a history."""

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
        """One prediction per request, whose observation is the last in its history. Prediction i uses the i-th stream
        of `key`. Raises InputError for an invalid request."""
