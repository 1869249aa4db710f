"""Whether text features from the vision-language side do what the text encoder's do: open-loop actions under both."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from wallwm_jax.core.rng import stream
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.planning import Moment, episode_plans
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.evaluate.errors import MILLIMETRES, trajectory_error
from wallwm_jax.evaluate.events import observation, recorded_event
from wallwm_jax.evaluate.language import moment_request
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.infer.programs import Text
from wallwm_jax.infer.reasoning import Reasoning

ENCODER, CONDITIONER, LATENTS = "text encoder", "conditioner", "Staircase latents"


@dataclasses.dataclass(frozen=True)
class DropInResult:
    """Mean distance of the arm from its recorded targets along held-out events, in mm, by source of the text; event
    lengths and noise are the same for all."""

    events: int
    errors: Mapping[str, float]

    @property
    def changes(self) -> dict[str, float]:
        """Relative changes of the error against the text encoder's."""
        base = self.errors[ENCODER]
        return {name: error / base - 1.0 for name, error in self.errors.items() if name != ENCODER}


def drop_in(
    mode: EventMode,
    reasoning: Reasoning,
    curated: CuratedDataset,
    window: LoaderSettings,
    split: str = "heldout",
    seed: int = 0,
) -> DropInResult:
    """Predicts every event of a split on text from three sources."""
    moments = [
        Moment(plan, number, event.start)
        for plan in episode_plans(curated, split)
        for number, event in enumerate(plan.events)
    ]
    events = [recorded_event(curated, moment.event.row, window) for moment in moments]
    requests = [moment_request(curated, moment) for moment in moments]
    captions = [event.caption for event in events]
    texts: dict[str, Text] = {
        ENCODER: captions,
        CONDITIONER: reasoning.condition_of_captions(requests, captions),
        LATENTS: reasoning.condition_of_latents(requests),
    }
    observations, steps = [observation(curated, event) for event in events], [event.steps for event in events]
    key, errors = stream(seed, "drop_in"), {}
    for name, text in texts.items():
        found = mode.predict(observations, text, steps, key=key, dream=False)
        errors[name] = float(np.mean(_errors(events, found)))
    return DropInResult(len(events), errors)


def _errors(events: Sequence, predictions: Sequence) -> list[float]:
    return [
        trajectory_error(prediction.actions.actions, event.trajectory.actions, MILLIMETRES).along
        for event, prediction in zip(events, predictions, strict=True)
    ]
