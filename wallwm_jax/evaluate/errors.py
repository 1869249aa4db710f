"""Trajectory errors in physical units and their summaries."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.types import GRIPPER, POSITION, RIGHT_ARM

GRIPPER_VERBS = ("grasp", "release")
"""Verbs whose outcome is the gripper's opening; every other verb is judged by the end-effector's position."""

MILLIMETRES, OPENING = "mm", "opening"


def unit_of(verb: str) -> str:
    """`opening` (fraction of the gripper's range) for grasp and release, else `mm`."""
    return OPENING if verb in GRIPPER_VERBS else MILLIMETRES


@dataclasses.dataclass(frozen=True)
class TrajectoryError:
    """One event's error: the mean over its steps and the value at its last step."""

    along: float
    end: float


def trajectory_error(
    predicted: Float[np.ndarray, "A 26"], truth: Float[np.ndarray, "A 26"], unit: str
) -> TrajectoryError:
    """Error between two absolute unified trajectories of one length (world frame, metres; gripper 0..1).

    `mm`: Euclidean distance of the right arm's end-effector; `opening`: absolute difference of its gripper.
    """
    difference = np.asarray(predicted, np.float64)[:, RIGHT_ARM] - np.asarray(truth, np.float64)[:, RIGHT_ARM]
    if unit == MILLIMETRES:
        distance = 1000.0 * np.linalg.norm(difference[:, POSITION], axis=-1)
    else:
        distance = np.abs(difference[:, GRIPPER])[:, 0]
    return TrajectoryError(float(distance.mean()), float(distance[-1]))


@dataclasses.dataclass(frozen=True)
class ErrorSummary:
    """Median and mean over events of the error along the event and at its end."""

    along_median: float
    along_mean: float
    end_median: float
    end_mean: float


def summarise(errors: Sequence[TrajectoryError]) -> ErrorSummary:
    """Median and mean over a non-empty list of events."""
    along, end = (np.array([getattr(error, name) for error in errors]) for name in ("along", "end"))
    return ErrorSummary(float(np.median(along)), float(along.mean()), float(np.median(end)), float(end.mean()))
