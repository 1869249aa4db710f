"""Event mode: observation and caption in, the whole event's video and trajectory out (WALL-WM §7)."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt8

from wallwm_jax.core.config import Section
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.model import Model
from wallwm_jax.core.types import ActionChunk, Observation
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.statistics import Statistics
from wallwm_jax.infer.conditions import WindowSettings, condition_batch
from wallwm_jax.infer.denoise import SolverSettings, TextCondition
from wallwm_jax.infer.observations import check_observations
from wallwm_jax.infer.programs import Programs, Text, film, without_text
from wallwm_jax.infer.safety import (
    EMPTY_TEXT,
    NON_FINITE_DURATION,
    NON_FINITE_VIDEO,
    Failure,
    Limits,
    SafetySettings,
    guard,
)
from wallwm_jax.infer.stage_timer import StageTimer


@dataclasses.dataclass(frozen=True)
class EventModeSettings:
    """`rows` events are denoised together (short batches are padded, so that a bucket compiles once)."""

    rows: int = 16
    window: WindowSettings = dataclasses.field(default_factory=WindowSettings)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)
    safety: SafetySettings = dataclasses.field(default_factory=SafetySettings)

    @classmethod
    def from_config(cls, config: Section) -> "EventModeSettings":
        """From the sections `data`, `stages.action.objective` and `evaluate` of a run's config."""
        evaluate, objective = config["evaluate"], config["stages"]["action"]["objective"]
        return cls(
            evaluate.get("rows", cls.rows),
            WindowSettings(**_present(WindowSettings, config["data"]), buckets=tuple(evaluate.get("buckets", ()))),
            SolverSettings(**_present(SolverSettings, objective), **_present(SolverSettings, evaluate)),
        )


def _present(kind: type, values: Section) -> dict[str, Any]:
    return {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}


@dataclasses.dataclass(frozen=True)
class EventPrediction:
    """One dreamt event."""

    actions: ActionChunk
    """Absolute unified poses (world frame), one a control step: finite and within limits, or holding still."""
    steps: int
    """Control steps asked for or predicted; `actions` holds fewer if that exceeds the longest bucket."""
    bucket: int
    frames: UInt8[np.ndarray, "T V H W 3"] | None
    """Keyframe and dreamt frames, one every `frame_stride` control steps; None if no dream was asked for, or there is
    a failure."""
    failure: Failure | None = None
    """Why `actions` holds still instead of what the network said."""
    clipped: int = 0
    """Numbers of `actions` that were beyond the limits."""


class EventMode:
    """Predicts events with programs compiled once a length bucket.

    A prediction depends on its own observation, text, key and place in the call, not on the call's other events.
    """

    def __init__(
        self,
        model: Model,
        parameters: Any,
        embodiment: Embodiment,
        statistics: Statistics,
        settings: EventModeSettings,
        timer: StageTimer | None = None,
    ):
        self.settings, self.embodiment, self._statistics = settings, embodiment, statistics
        self.programs = Programs(model, parameters, settings.rows, settings.window, settings.solver, timer)
        self._limits = Limits.of(statistics, settings.safety)

    @property
    def compiled(self) -> tuple[tuple[str, int], ...]:
        """(program, bucket) of every program compiled so far, in order; bucket 0 is what all buckets share."""
        return self.programs.compiled

    def encode(self, captions: Sequence[str]) -> TextCondition:
        """Captions as `predict` would encode them."""
        return self.programs.condition(captions, len(captions))

    def durations(self, observations: Sequence[Observation], captions: Text) -> Float[np.ndarray, "n"]:
        """Expected control steps of each event, from the duration head; raises InputError if the model has none."""
        check_observations(observations)
        text = self.programs.condition(captions, len(observations))
        expected, rows = np.zeros(len(observations)), self.settings.rows
        for first in range(0, len(observations), rows):
            chosen = range(first, min(first + rows, len(observations)))
            _, steps = self._observe(observations, text, chosen)
            if steps is None:
                raise InputError("steps", None, "control steps of each event: the model has no duration head")
            expected[chosen] = np.asarray(steps)[: len(chosen), 0]
        return expected

    def predict(
        self,
        observations: Sequence[Observation],
        captions: Text,
        steps: Sequence[int | None] | None = None,
        *,
        key: PRNGKeyArray,
        dream: bool = True,
    ) -> list[EventPrediction]:
        """Predicts one event for each observation and its caption; without a caption it holds still.

        Args:
            captions: texts, or their like from another source as a `TextCondition`.
            steps: control steps of each event; None, for all or for one, asks the duration head, if the model has one.
            key: all randomness; event i uses the i-th stream of it.
            dream: whether to finish the video; without it only the forward passes that the actions need are run.

        Raises:
            InputError: captions and observations do not match, a caption is too long, a state is not finite or has
                a degenerate rotation, or steps are not positive, or are None for a model without a duration head.
        """
        check_observations(observations)
        text = self.programs.condition(captions, len(observations))
        given = [None] * len(observations) if steps is None else list(steps)
        if len(given) != len(observations):
            raise InputError("steps", len(given), f"one for each of {len(observations)} events")
        counts, failures = self._lengths(observations, text, given)
        failures |= {place: Failure(EMPTY_TEXT) for place in without_text(captions)}
        buckets = [self.settings.window.bucket(int(count)) for count in counts]
        return self._predict(observations, text, counts, buckets, failures, key, dream)

    def _lengths(self, observations, text, steps) -> tuple[list[int], dict[int, Failure]]:
        """Control steps of each event, those that are None from the duration head; and where it gives no number."""
        places = [place for place, count in enumerate(steps) if count is None]
        if not places:
            return steps, {}
        asked = TextCondition(*(np.asarray(part)[places] for part in text))
        expected = self.durations([observations[place] for place in places], asked)
        counts = np.clip(np.round(np.nan_to_num(expected)), 1, self.settings.window.max_steps).astype(int)
        found = dict(zip(places, counts.tolist(), strict=True))
        lost = [place for place, count in zip(places, expected, strict=True) if not np.isfinite(count)]
        unknown = {place: Failure(NON_FINITE_DURATION) for place in lost}
        return [found.get(place, count) for place, count in enumerate(steps)], unknown

    def replan(
        self,
        predictions: Sequence[EventPrediction],
        executed: Sequence[int],
        observations: Sequence[Observation],
        captions: Text,
        *,
        key: PRNGKeyArray,
        dream: bool = True,
    ) -> list[EventPrediction]:
        """Predicts the remainder of events, of which `executed` control steps are done, from new observations.

        The programs are those of the predictions: nothing is compiled that `predict` had not compiled, since a longer
        bucket changes nothing.

        Raises:
            InputError: as `predict`; also when an event has no step left.
        """
        check_observations(observations)
        if not len(predictions) == len(executed) == len(observations):
            found = f"{len(predictions)} predictions, {len(executed)} executed"
            raise InputError("replan", found, f"one for each of {len(observations)} observations")
        for prediction, done in zip(predictions, executed, strict=True):
            if not 0 <= done < prediction.steps:
                raise InputError("executed", done, f"0 to {prediction.steps - 1}: a part of the event")
        text = self.programs.condition(captions, len(observations))
        steps = [prediction.steps - done for prediction, done in zip(predictions, executed, strict=True)]
        buckets = [prediction.bucket for prediction in predictions]
        failures = {place: Failure(EMPTY_TEXT) for place in without_text(captions)}
        return self._predict(observations, text, steps, buckets, failures, key, dream)

    def _predict(self, observations, text, steps, buckets, failures, key, dream) -> list[EventPrediction]:
        places: dict[int, list[int]] = defaultdict(list)
        for index, bucket in enumerate(buckets):
            places[bucket].append(index)
        predictions: dict[int, EventPrediction] = {}
        for bucket, members in sorted(places.items()):
            for first in range(0, len(members), self.settings.rows):
                chosen = members[first : first + self.settings.rows]
                predictions |= self._predict_rows(observations, text, steps, chosen, bucket, failures, key, dream)
        return [predictions[index] for index in range(len(observations))]

    def _predict_rows(
        self, observations, text, steps, chosen, bucket, failures, key, dream
    ) -> dict[int, EventPrediction]:
        given, _ = self._observe(observations, text, chosen)
        batch = self._batch(observations, steps, chosen, bucket)
        noise = self.programs.noise(key, chosen, given, bucket)
        actions, frames, finite = self.programs.denoise(bucket, batch, given, noise, dream)
        predictions = {}
        for row, index in enumerate(chosen):
            known = failures.get(index) or (None if finite[row] else Failure(NON_FINITE_VIDEO))
            chunk, failure, clipped = self._chunk(actions[row, batch.action_mask[row]], observations[index], known)
            shown = None if frames is None or failure else film(frames[row, batch.frame_mask[row]], 1)
            predictions[index] = EventPrediction(chunk, int(steps[index]), bucket, shown, failure, clipped)
        return predictions

    def _observe(self, observations, text, chosen):
        batch = self._batch(observations, np.ones(len(observations), int), chosen, 2)
        return self.programs.observe(batch, text, chosen)

    def _batch(self, observations, steps, chosen, bucket):
        return condition_batch(
            [observations[i] for i in chosen], [int(steps[i]) for i in chosen],
            self.settings.rows, bucket, self.embodiment, self._statistics, self.settings.window,
        )  # fmt: skip

    def _chunk(
        self, normalised: Float[np.ndarray, "A 26"], observation: Observation, known: Failure | None
    ) -> tuple[ActionChunk, Failure | None, int]:
        absolute = self.embodiment.decode(normalised, observation.state, self._statistics)
        given = (observation.state, observation.dof_mask, self._limits, self.embodiment.control_hz)
        return guard(absolute, *given, known)
