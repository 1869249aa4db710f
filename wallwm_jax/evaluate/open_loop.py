"""Open loop: held-out events dreamt from their keyframes, and their errors beside the baselines'."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.rng import stream
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.evaluate.baselines import EventTrajectory, MeanTrajectory, SceneDependence, hold_still
from wallwm_jax.evaluate.errors import MILLIMETRES, TrajectoryError, summarise, trajectory_error, unit_of
from wallwm_jax.evaluate.events import RecordedEvent, by_verb, observation, spread_over_verbs
from wallwm_jax.evaluate.results import LengthResult, ObjectResult, VerbResult
from wallwm_jax.evaluate.settings import EvaluationSettings
from wallwm_jax.infer.event_mode import EventMode, EventPrediction


@dataclasses.dataclass(frozen=True)
class OpenLoop:
    """Held-out events, what was predicted for them, and the baselines' answer. All lists run over the same events."""

    events: Sequence[RecordedEvent]
    predictions: Sequence[EventPrediction]
    """Given the event's true length; frames for `dreamt` events only."""
    dreamt: Sequence[int]
    durations: Float[np.ndarray, "n"]
    means: Sequence[Float[np.ndarray, "_ 26"] | None]
    errors: Sequence[Mapping[str, TrajectoryError]]
    """By "ours", "hold" and, where training knew the verb, "mean"."""


def run_open_loop(
    mode: EventMode,
    curated: CuratedDataset,
    events: Sequence[RecordedEvent],
    mean: MeanTrajectory,
    settings: EvaluationSettings,
) -> OpenLoop:
    """Predicts every event once; those spread over the verbs for the video also dream to the end."""
    observations = [observation(curated, event) for event in events]
    captions, steps = [event.caption for event in events], [event.steps for event in events]
    dreamt = spread_over_verbs(events, settings.video_events)
    predictions: list[EventPrediction | None] = [None] * len(events)
    others = sorted(set(range(len(events))) - set(dreamt))
    for places, dream in ((dreamt, True), (others, False)):
        if not places:
            continue
        key = stream(settings.seed, "evaluate", str(dream))
        chosen = [[values[place] for place in places] for values in (observations, captions, steps)]
        for place, prediction in zip(places, mode.predict(*chosen, key=key, dream=dream), strict=True):
            predictions[place] = prediction
    durations = mode.durations(observations, captions)
    means = [mean.predict(event.trajectory) for event in events]
    errors = [
        event_errors(event.trajectory, prediction.actions.actions, average)
        for event, prediction, average in zip(events, predictions, means, strict=True)
    ]
    return OpenLoop(events, predictions, dreamt, durations, means, errors)


def event_errors(
    truth: EventTrajectory, predicted: Float[np.ndarray, "A 26"], mean: Float[np.ndarray, "A 26"] | None
) -> dict[str, TrajectoryError]:
    """Errors of ours, hold-still and the mean trajectory in the verb's unit."""
    candidates = {"ours": predicted, "hold": hold_still(truth.anchor, len(truth.actions)), "mean": mean}
    unit = unit_of(truth.verb)
    return {
        name: trajectory_error(values, truth.actions, unit) for name, values in candidates.items() if values is not None
    }


def verb_results(result: OpenLoop, dependence: Mapping[str, SceneDependence]) -> list[VerbResult]:
    """One result a verb, scene-dependent verbs first, then the others in order of hold-still's error."""
    rows = []
    for verb, places in by_verb(result.events).items():
        errors = [result.errors[place] for place in places]
        known = verb in dependence
        rows.append(
            VerbResult(
                verb=verb,
                unit=unit_of(verb),
                events=len(places),
                truncated=sum(result.events[place].window.truncated for place in places),
                scene_dependent=known and dependence[verb].scene_dependent,
                ours=summarise([error["ours"] for error in errors]),
                hold=summarise([error["hold"] for error in errors]),
                mean=summarise([error["mean"] for error in errors]) if known else None,
                objects=_object_results(result, places, known),
            )
        )
    return sorted(rows, key=lambda row: (row.unit != MILLIMETRES, not row.scene_dependent, -row.hold.end_median))


def _object_results(result: OpenLoop, places: Sequence[int], known: bool) -> dict[str, ObjectResult]:
    rows = {}
    for name in sorted({result.events[place].trajectory.object for place in places}):
        errors = [result.errors[place] for place in places if result.events[place].trajectory.object == name]
        mean = summarise([error["mean"] for error in errors]) if known else None
        rows[name] = ObjectResult(len(errors), summarise([error["ours"] for error in errors]), mean)
    return rows


def length_result(result: OpenLoop, training_steps: Mapping[str, Sequence[int]]) -> LengthResult:
    """The duration head against true lengths, beside the median training length of the verb."""
    true = np.array([event.window.steps for event in result.events])
    everything = [steps for values in training_steps.values() for steps in values]
    guess = np.array([np.median(training_steps.get(event.trajectory.verb, everything)) for event in result.events])
    ours, baseline = np.abs(result.durations - true), np.abs(guess - true)
    return LengthResult(
        events=len(true),
        median_error=float(np.median(ours)),
        mean_error=float(ours.mean()),
        baseline_median_error=float(np.median(baseline)),
        baseline_mean_error=float(baseline.mean()),
        predicted=result.durations.tolist(),
        true=true.tolist(),
    )
