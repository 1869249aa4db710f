"""What an evaluation found: plain values that the report draws and `metrics.json` keeps."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.files import write_durably
from wallwm_jax.evaluate.closed_loop_results import ClosedLoopResult
from wallwm_jax.evaluate.drop_in import DropInResult
from wallwm_jax.evaluate.errors import ErrorSummary
from wallwm_jax.evaluate.language import LanguageResult
from wallwm_jax.evaluate.rollouts import Rollout
from wallwm_jax.evaluate.video_quality import VideoQuality


@dataclasses.dataclass(frozen=True)
class ObjectResult:
    """One verb's errors on the events of one object."""

    events: int
    ours: ErrorSummary
    mean: ErrorSummary | None


@dataclasses.dataclass(frozen=True)
class VerbResult:
    """One verb on held-out events. `mean` is None if training never saw the verb."""

    verb: str
    unit: str
    events: int
    truncated: int
    """Events longer than the longest bucket; judged over the steps that fit."""
    scene_dependent: bool
    ours: ErrorSummary
    hold: ErrorSummary
    mean: ErrorSummary | None
    objects: Mapping[str, ObjectResult]
    """The same, object by object."""


@dataclasses.dataclass(frozen=True)
class LengthResult:
    """The duration head's error in control steps, beside always guessing the verb's median training length."""

    events: int
    median_error: float
    mean_error: float
    baseline_median_error: float
    baseline_mean_error: float
    predicted: Sequence[float]
    true: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Filmstrip:
    """Keyframe and all sampled frames of one event, truth and dream; a strip shows every `every`-th."""

    title: str
    subtitle: str
    views: Sequence[str]
    times: Sequence[float]
    """Seconds since the anchor of each shown frame; the first is the keyframe at 0."""
    every: int
    """Frames of one latent."""
    frame_seconds: float
    truth: UInt8[np.ndarray, "T V H W 3"]
    dream: UInt8[np.ndarray, "T V H W 3"]


@dataclasses.dataclass(frozen=True)
class TrajectoryExample:
    """One event's trajectories, absolute: columns x, y, z in metres (world frame) and gripper opening."""

    verb: str
    caption: str
    control_hz: float
    truth: Float[np.ndarray, "A 4"]
    ours: Float[np.ndarray, "A 4"]
    mean: Float[np.ndarray, "A 4"] | None
    anchor: Float[np.ndarray, "4"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One stage's losses over steps: the training loss and the held-out loss."""

    title: str
    steps: Sequence[int]
    loss: Sequence[float]
    heldout_steps: Sequence[int]
    heldout: Sequence[float]


@dataclasses.dataclass(frozen=True)
class ClusterBalance:
    """Share of each cluster among the curated events and among the events that sampling draws; each sums to 1."""

    title: str
    before: Sequence[float]
    after: Sequence[float]


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """One line of the parameter table."""

    name: str
    shape: Sequence[int]
    numbers: int
    axes: str
    optimizer: str
    decay: bool


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything the report shows."""

    verbs: Sequence[VerbResult]
    scene_rule: str
    length: LengthResult | None
    video: VideoQuality | None
    filmstrips: Sequence[Filmstrip]
    trajectories: Sequence[TrajectoryExample]
    end_points: Mapping[str, Float[np.ndarray, "_ 2 3"]]
    """For each moving verb: true and predicted end displacement from the anchor of every event, metres."""
    closed_loop: ClosedLoopResult | None
    curves: Sequence[Curve]
    clusters: Sequence[ClusterBalance]
    parameters: Sequence[ParameterRow]
    counts: Mapping[str, Any]
    """What was evaluated on what: free labels and numbers."""
    seconds: float
    """Wall-clock seconds of the evaluation, or of the whole run where a caller has put those here."""
    language: Sequence[LanguageResult] = ()
    """The vision-language side, split by split; empty if it has not been trained."""
    text_sources: DropInResult | None = None
    """The same actions on text from the vision-language side."""
    rollouts: Sequence[Rollout] = ()
    """One held-out episode in each mode that has been trained."""


VIDEO_LOSS_START_STEP = 50


def heldout_at(curve: Curve | None, step: int) -> float | None:
    """The held-out loss at the first evaluation at or after `step`, None without one."""
    if curve is None:
        return None
    return next((loss for at, loss in zip(curve.heldout_steps, curve.heldout, strict=True) if at >= step), None)


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """The content of metrics.json. Headline numbers of a verb are medians over held-out events of the error at the
    event's end; `detail` holds the rest."""
    video_curve = next((curve for curve in evaluation.curves if curve.title == "video"), None)
    return _plain(
        {
            "video_loss_start": heldout_at(video_curve, VIDEO_LOSS_START_STEP),
            "video_loss_end": video_curve.heldout[-1] if video_curve and video_curve.heldout else None,
            "verbs": {result.verb: _headline(result) for result in evaluation.verbs},
            "seconds": evaluation.seconds,
            "detail": {
                "verbs": {result.verb: dataclasses.asdict(result) for result in evaluation.verbs},
                "scene_rule": evaluation.scene_rule,
                "length": dataclasses.asdict(evaluation.length) if evaluation.length else None,
                "video": dataclasses.asdict(evaluation.video) if evaluation.video else None,
                "closed_loop": evaluation.closed_loop.plain() if evaluation.closed_loop else None,
                "language": [dataclasses.asdict(result) for result in evaluation.language],
                "text_sources": _text_sources(evaluation.text_sources),
                "rollouts": {rollout.mode: _rollout(rollout) for rollout in evaluation.rollouts},
                "counts": dict(evaluation.counts),
            },
        }
    )


def _text_sources(result: DropInResult | None) -> dict[str, Any] | None:
    return {**dataclasses.asdict(result), "changes": result.changes} if result else None


def _rollout(rollout: Rollout) -> dict[str, Any]:
    errors = {"end_median": float(np.median(rollout.errors)), "end_mean": float(np.mean(rollout.errors))}
    return {"episode": rollout.episode, "pieces": len(rollout.pieces), "unit": "mm", **errors}


def _headline(result: VerbResult) -> dict[str, Any]:
    return {
        "ours": result.ours.end_median,
        "hold": result.hold.end_median,
        "mean": result.mean.end_median if result.mean else None,
        "unit": result.unit,
        "scene_dependent": result.scene_dependent,
        "events": result.events,
    }


def _plain(value: Any) -> Any:
    """JSON without NaN: non-finite numbers become null, numpy numbers Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Writes metrics.json."""
    write_durably(path, json.dumps(metrics(evaluation), indent=2) + "\n")
