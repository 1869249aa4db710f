"""Event rows from an episode's annotations, with the checks that flag or reject them."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from wallwm_jax.core.types import GRIPPER, LEFT_ARM, RIGHT_ARM, Episode


@dataclasses.dataclass(frozen=True)
class EventRow:
    """One row of the event index. Frames [start, end) at source rate.

    `level` is one of `core.types.CAPTION_LEVELS`; "action" rows are what training draws. `parent_rows` are index rows
    of the events that contain this one. `lag` is the number of frames that synchronisation shifted the actions by.
    Cluster -1 is no cluster (rows of other levels).
    """

    dataset: str
    episode: int
    start: int
    end: int
    level: str
    caption: str
    verb: str
    object: str
    target: str = ""
    parent_rows: tuple[int, ...] = ()
    lag: int = 0
    quality_flags: tuple[str, ...] = ()
    vision_language_cluster: int = -1
    action_cluster: int = -1
    recovery: bool = False
    length: int = 0
    static_fraction: float = 0.0
    split: str = "train"


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why an episode (`start` = 0, `end` = its length) or an event is not in the index."""

    episode: int
    start: int
    end: int
    reason: str


def moving(
    state: Float[np.ndarray, "T 26"], dof_mask: Bool[np.ndarray, "26"], fps: float, speed: float
) -> Bool[np.ndarray, "T"]:
    """Whether, from a frame to the next, an arm moves faster than `speed` m/s or a gripper by more than 1 %.

    The last frame counts as moving if the one before it does.
    """
    change = np.diff(state, axis=0)
    result = np.zeros(len(change), bool)
    for arm in (LEFT_ARM, RIGHT_ARM):
        if dof_mask[arm.start]:
            result |= np.linalg.norm(change[:, arm.start : arm.start + 3], axis=1) * fps > speed
            result |= np.abs(change[:, arm.start + GRIPPER.start]) > 0.01
    return np.append(result, result[-1:]) if result.size else np.ones(len(state), bool)


def episode_problem(episode: Episode, largest_speed: float) -> str | None:
    """Why an episode cannot be used, or None: timestamps out of step with the frame rate, or a jump of an arm."""
    gaps = np.diff(episode.timestamps)
    if (gaps <= 0).any():
        return f"timestamps do not increase at frame {int(np.argmax(gaps <= 0)) + 1}"
    if gaps.size and np.abs(gaps * episode.fps - 1).max() > 0.5:
        return f"timestamps leave the {episode.fps:g} Hz grid at frame {int(np.abs(gaps * episode.fps - 1).argmax())}"
    for arm in (LEFT_ARM, RIGHT_ARM):
        if episode.dof_mask[arm.start]:
            steps = np.diff(episode.state[:, arm.start : arm.start + 3], axis=0)
            speeds = np.linalg.norm(steps, axis=1) * episode.fps
            if speeds.size and speeds.max() > largest_speed:
                return f"arm jumps at {speeds.max():.1f} m/s at frame {int(speeds.argmax())}"
    return None


def action_rows(
    episode: Episode, recovery: tuple[bool, ...], split: str, minimum_steps: int, static_speed: float
) -> tuple[list[EventRow], list[Rejection]]:
    """Rows of an episode's annotated events at level "action", and the events that are too short to use."""
    rows, rejections = [], []
    active = moving(episode.state, episode.dof_mask, episode.fps, static_speed)
    for event, is_recovery in zip(episode.events, recovery, strict=True):
        length = event.end - event.start
        if length < minimum_steps:
            reason = f"{length} steps, fewer than {minimum_steps}"
            rejections.append(Rejection(episode.index, event.start, event.end, reason))
            continue
        static = float(1 - active[event.start : event.end].mean())
        rows.append(
            EventRow(
                dataset=episode.dataset,
                episode=episode.index,
                start=event.start,
                end=event.end,
                level="action",
                caption=event.caption,
                verb=event.verb,
                object=event.object,
                target=event.target,
                quality_flags=("static",) if static > 0.9 else (),
                recovery=is_recovery,
                length=length,
                static_fraction=static,
                split=split,
            )
        )
    return rows, rejections


def task_row(episode: Episode, split: str) -> EventRow:
    """The whole episode as one row of level "task": the parent of its action rows."""
    length = len(episode.state)
    return EventRow(
        dataset=episode.dataset,
        episode=episode.index,
        start=0,
        end=length,
        level="task",
        caption=episode.task,
        verb="",
        object="",
        length=length,
        split=split,
    )
