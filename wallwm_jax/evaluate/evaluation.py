"""A whole evaluation: open loop, video, lengths, closed loop if wanted, and what training left behind."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wallwm_jax.core.model import Model
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.pipeline import cluster_balance
from wallwm_jax.evaluate.baselines import MeanTrajectory, scene_dependence
from wallwm_jax.evaluate.closed_loop_results import ClosedLoopResult
from wallwm_jax.evaluate.dreams import Reconstruct, dreamt_frames
from wallwm_jax.evaluate.events import RecordedEvent, recorded_event, select_rows
from wallwm_jax.evaluate.examples import end_points, filmstrips, trajectory_examples, typical_places
from wallwm_jax.evaluate.metric import Judged, Metric, check_names, measure
from wallwm_jax.evaluate.metrics import METRICS
from wallwm_jax.evaluate.open_loop import OpenLoop, run_open_loop
from wallwm_jax.evaluate.results import ClusterBalance, Curve, Evaluation, ParameterRow
from wallwm_jax.evaluate.rollouts import Rollout
from wallwm_jax.evaluate.settings import EvaluationSettings, describe
from wallwm_jax.evaluate.verb_results import verb_results
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.train.assignment import read_assignment
from wallwm_jax.train.metrics import read_metrics

CLUSTER_TITLES = {"vision_language_cluster": "by what is seen and said", "action_cluster": "by how the arm moves"}


def evaluate(
    model: Model,
    parameters: Any,
    curated: CuratedDataset,
    settings: EvaluationSettings,
    *,
    metrics_files: Mapping[str, Path],
    closed_loop: Callable[[EventMode], ClosedLoopResult] | None = None,
    rollouts: Callable[[EventMode], Sequence[Rollout]] | None = None,
    metrics: Sequence[Metric] = METRICS,
    progress: Callable[[str], None] = print,
) -> Evaluation:
    """Evaluates a trained model on held-out events.

    Args:
        parameters: those to act with (the averaged ones, if training averaged).
        metrics_files: JSON lines of each stage, by its title; "video" gives the headline losses. Beside each lies the
            stage's assignment of parameters to optimizers.
        closed_loop: runs event mode in a simulator.
        rollouts: takes event mode, and whatever else there is, through a recorded episode.
        metrics: what is computed from the predictions; `metric.Metric` says what a new one is.

    Raises:
        InputError: no held-out events, a missing file of a stage, or two metrics of one name.
    """
    started = time.monotonic()
    check_names(metrics)
    curves = [read_curve(title, path) for title, path in metrics_files.items()]
    parameters_by_optimizer = [
        ParameterRow(**row) for path in metrics_files.values() for row in read_assignment(path.parent)
    ]
    rows = select_rows(curated, settings.split, settings.events)
    events = [recorded_event(curated, row, settings.window) for row in rows]
    training = [recorded_event(curated, row, settings.window) for row in select_rows(curated, "train", None)]
    trajectories = [event.trajectory for event in training]
    mode = EventMode(model, parameters, curated.embodiment, curated.statistics, settings.mode)
    progress(f"predicting {len(events)} held-out events")
    result = run_open_loop(mode, curated, events, MeanTrajectory.fit(trajectories), settings)
    verbs = verb_results(result, scene_dependence(trajectories))
    names = [verb.verb for verb in verbs]
    films = typical_places(result, result.dreamt, names)[: settings.films]
    examples = typical_places(result, range(len(events)), names)[: settings.examples]
    frames = dreamt_frames(result, curated, settings, Reconstruct(model, parameters)) if result.dreamt else []
    measured = measure(metrics, Judged(result, verbs, frames, training, curated, settings))
    if closed_loop:
        progress("driving the simulator")
    return Evaluation(
        measured=measured,
        filmstrips=filmstrips(result, films, curated, settings),
        trajectories=trajectory_examples(result, examples, curated.embodiment.control_hz),
        end_points=end_points(result),
        closed_loop=closed_loop(mode) if closed_loop else None,
        curves=curves,
        clusters=_clusters(curated, settings),
        parameters=parameters_by_optimizer,
        counts=_counts(result, events, len(training), settings, mode),
        rollouts=rollouts(mode) if rollouts else (),
        seconds=time.monotonic() - started,
    )


def read_curve(title: str, path: Path) -> Curve:
    """The losses of a stage's metrics file; lines without a finite loss are left out. Of the training loss it is the
    part that the held-out loss is made of: "video_loss" for stage "video", which also learns waypoints."""
    lines, name = read_metrics(path), "video_loss" if title == "video" else "loss"
    loss = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    heldout = [(line["step"], line["heldout_loss"]) for line in lines if line.get("heldout_loss") is not None]
    (steps, losses), (heldout_steps, heldout_losses) = (_columns(pairs) for pairs in (loss, heldout))
    return Curve(title, steps, losses, heldout_steps, heldout_losses)


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in pairs], [value for _, value in pairs]


def _clusters(curated: CuratedDataset, settings: EvaluationSettings) -> list[ClusterBalance]:
    return [
        ClusterBalance(CLUSTER_TITLES.get(name, name), shares["before"], shares["after"])
        for name, shares in cluster_balance(curated, settings.window).items()
    ]


def _counts(
    result: OpenLoop, events: Sequence[RecordedEvent], training: int, settings: EvaluationSettings, mode: EventMode
) -> dict[str, Any]:
    verbs = len({event.trajectory.verb for event in events})
    return {
        "events evaluated": f"{len(events)} of split {settings.split!r}, {verbs} verbs, "
        f"{len({event.window.episode for event in events})} episodes",
        "events dreamt to the end": f"{len(result.dreamt)}, spread over the verbs in turn",
        "events longer than the longest bucket": sum(event.window.truncated for event in events),
        "training events of the baselines": training,
        "solver": describe(settings.mode.solver),
        "shown films and trajectories": "of each verb the event whose end error is the median",
        "programs compiled": ", ".join(f"{name} {bucket}" for name, bucket in mode.compiled),
    }
