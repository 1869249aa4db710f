"""What an evaluation found: plain values that the report draws and `metrics.json` keeps."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import write_durably
from wallwm_jax.evaluate.closed_loop_results import ClosedLoopResult
from wallwm_jax.evaluate.drop_in import DropInResult
from wallwm_jax.evaluate.language import LanguageResult
from wallwm_jax.evaluate.metric import Measured
from wallwm_jax.evaluate.rollouts import Rollout


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

    measured: Sequence[Measured]
    """What each metric found, in the order of the report."""
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

    def value(self, name: str) -> Any:
        """What the metric `name` found; None if it found nothing, or was not asked."""
        return next((one.value for one in self.measured if one.metric.name == name), None)


VIDEO_LOSS_START_STEP = 50


def heldout_at(curve: Curve | None, step: int) -> float | None:
    """The held-out loss at the first evaluation at or after `step`, None without one."""
    if curve is None:
        return None
    return next((loss for at, loss in zip(curve.heldout_steps, curve.heldout, strict=True) if at >= step), None)


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """The content of metrics.json: the losses, what each metric says for it, and under `detail` the rest."""
    video_curve = next((curve for curve in evaluation.curves if curve.title == "video"), None)
    content: dict[str, Any] = {
        "video_loss_start": heldout_at(video_curve, VIDEO_LOSS_START_STEP),
        "video_loss_end": video_curve.heldout[-1] if video_curve and video_curve.heldout else None,
    }
    for one in evaluation.measured:
        content = _merged(content, one.plain(), one.metric.name)
    rest = {
        "seconds": evaluation.seconds,
        "detail": {
            "closed_loop": evaluation.closed_loop.plain() if evaluation.closed_loop else None,
            "language": [dataclasses.asdict(result) for result in evaluation.language],
            "text_sources": _text_sources(evaluation.text_sources),
            "rollouts": {rollout.mode: _rollout(rollout) for rollout in evaluation.rollouts},
            "counts": dict(evaluation.counts),
        },
    }
    return _plain(_merged(content, rest, "evaluation"))


def _merged(content: Mapping[str, Any], added: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Both, sections joined on every level. Raises InputError for a key that is there already: a metric of that `name`
    would overwrite another's number."""
    joined = dict(content)
    for key, value in added.items():
        if key not in joined:
            joined[key] = value
        elif isinstance(joined[key], Mapping) and isinstance(value, Mapping):
            joined[key] = _merged(joined[key], value, name)
        else:
            raise InputError(f"metric {name}", f"key {key!r} of metrics.json", "one that no other metric has")
    return joined


def _text_sources(result: DropInResult | None) -> dict[str, Any] | None:
    return {**dataclasses.asdict(result), "changes": result.changes} if result else None


def _rollout(rollout: Rollout) -> dict[str, Any]:
    errors = {"end_median": float(np.median(rollout.errors)), "end_mean": float(np.mean(rollout.errors))}
    return {"episode": rollout.episode, "pieces": len(rollout.pieces), "unit": "mm", **errors}


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
