"""What leaves the library towards a robot is finite and within limits; what cannot be trusted becomes holding still."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import BASE, GRIPPER, HEAD, LEFT_ARM, LIFT, POSITION, RIGHT_ARM, ActionChunk
from wallwm_jax.data.statistics import Statistics

NON_FINITE_ACTIONS, NON_FINITE_VIDEO, NON_FINITE_DURATION, EMPTY_TEXT = (
    "non-finite actions",
    "non-finite video",
    "non-finite duration",
    "empty text",
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why there is no prediction to act on. The names are constants of this module and of `infer.planner`."""

    name: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class SafetySettings:
    """`margin`: fraction of the recorded range (1st to 99th percentile) by which poses may leave it on either side;
    `least`: metres or radians that they may leave it in any case."""

    margin: float = 0.25
    least: float = 0.02

    def __post_init__(self):
        for field in ("margin", "least"):
            if not getattr(self, field) >= 0:
                raise InputError(f"safety.{field}", getattr(self, field), "0 or more")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Smallest and greatest absolute poses (unified layout, world frame) that may be commanded; rotations have none,
    as each of their numbers alone says nothing."""

    low: Float[np.ndarray, "26"]
    high: Float[np.ndarray, "26"]

    @classmethod
    def of(cls, statistics: Statistics, settings: SafetySettings) -> "Limits":
        """Where the robot has been recorded, and how its grippers have been commanded, with a margin."""
        low, high = np.full(26, -np.inf), np.full(26, np.inf)
        for part in (_within(LEFT_ARM, POSITION), _within(RIGHT_ARM, POSITION), BASE, LIFT, HEAD):
            low[part], high[part] = statistics.state_low[part], statistics.state_high[part]
        for part in (_within(LEFT_ARM, GRIPPER), _within(RIGHT_ARM, GRIPPER)):
            # A gripper that holds something never gets where it is told to go: its commands are the range.
            low[part], high[part] = statistics.action_low[part], statistics.action_high[part]
        span = np.where(np.isfinite(low), high - low, 0.0)
        margin = np.maximum(settings.margin * span, settings.least)
        return cls(low - margin, high + margin)

    def clip(
        self, actions: Float[np.ndarray, "A 26"], anchor: Float[np.ndarray, "26"], dof_mask: Bool[np.ndarray, "26"]
    ) -> tuple[Float[np.ndarray, "A 26"], int]:
        """Poses within the limits, and how many numbers were not. Limits reach as far as the anchor's own pose, so that
        a robot which stands outside is not made to jump."""
        low, high = np.minimum(self.low, anchor), np.maximum(self.high, anchor)
        outside = ((actions < low) | (actions > high)) & dof_mask
        clipped = np.where(outside, np.clip(actions, low, high), actions).astype(actions.dtype)
        return clipped, int(outside.sum())


def _within(arm: slice, part: slice) -> slice:
    return slice(arm.start + part.start, arm.start + part.stop)


def hold(
    state: Float[np.ndarray, "26"], dof_mask: Bool[np.ndarray, "26"], steps: int, control_hz: float
) -> ActionChunk:
    """The pose that the robot is in, repeated. Degrees of freedom outside `dof_mask` are 0 if they are no numbers."""
    pose = np.where(np.isfinite(state), state, 0.0).astype(np.float32)
    return ActionChunk(np.tile(pose, (steps, 1)), np.array(dof_mask), np.ones(steps, bool), control_hz)


def guard(
    actions: Float[np.ndarray, "A 26"],
    state: Float[np.ndarray, "26"],
    dof_mask: Bool[np.ndarray, "26"],
    limits: Limits,
    control_hz: float,
    failure: Failure | None = None,
) -> tuple[ActionChunk, Failure | None, int]:
    """The chunk that may be executed, why it is none of the network's, and how many numbers were clipped.

    `failure` is one that is known already; otherwise an action that is no finite number is one.
    """
    if failure is None and not np.isfinite(actions).all():
        steps = int((~np.isfinite(actions)).any(axis=1).sum())
        failure = Failure(NON_FINITE_ACTIONS, f"{steps} of {len(actions)} steps")
    if failure is not None:
        return hold(state, dof_mask, len(actions), control_hz), failure, 0
    clipped, count = limits.clip(actions, state, dof_mask)
    return ActionChunk(clipped, np.array(dof_mask), np.ones(len(clipped), bool), control_hz), None, count
