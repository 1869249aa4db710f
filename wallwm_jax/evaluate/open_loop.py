"""Open loop: held-out events dreamt from their keyframes, and their errors beside the baselines'."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.rng import stream
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.evaluate.baselines import EventTrajectory, MeanTrajectory, hold_still
from wallwm_jax.evaluate.errors import TrajectoryError, trajectory_error, unit_of
from wallwm_jax.evaluate.events import RecordedEvent, observation, spread_over_verbs
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
