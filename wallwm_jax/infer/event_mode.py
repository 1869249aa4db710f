"""Event mode: observation and caption in, the whole event's video and trajectory out (WALL-WM §7)."""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from wallwm_jax.core.config import Section
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import ActionChunk, Observation
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.statistics import Statistics
from wallwm_jax.infer import denoise
from wallwm_jax.infer.conditions import WindowSettings, check_observations, condition_batch
from wallwm_jax.infer.denoise import SolverSettings


@dataclasses.dataclass(frozen=True)
class EventModeSettings:
    """`rows` events are denoised together (short batches are padded, so that a bucket compiles once)."""

    rows: int = 16
    window: WindowSettings = dataclasses.field(default_factory=WindowSettings)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)

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
    """Absolute unified poses (world frame), one a control step."""
    steps: int
    """Control steps asked for or predicted; `actions` holds fewer if that exceeds the longest bucket."""
    bucket: int
    frames: UInt8[np.ndarray, "T V H W 3"] | None
    """Keyframe and dreamt frames, one every `frame_stride` control steps; None if no dream was asked for."""


class EventMode:
    """Predicts events with programs compiled once a length bucket.

    A prediction depends on its own observation, caption, key and place in the call, not on the call's other events.
    Solver step counts are no part of a program: the video's steps are taken one call at a time.
    """

    def __init__(
        self,
        model: Any,
        parameters: Any,
        embodiment: Embodiment,
        statistics: Statistics,
        settings: EventModeSettings,
    ):
        self.settings = settings
        self._model, self._parameters = model, parameters
        self.embodiment, self._statistics = embodiment, statistics
        self._programs: dict[tuple[str, int], Any] = {}

    @property
    def compiled(self) -> tuple[tuple[str, int], ...]:
        """(program, bucket) of every program compiled so far, in order; bucket 0 is what all buckets share."""
        return tuple(self._programs)

    def durations(self, observations: Sequence[Observation], captions: Sequence[str]) -> Float[np.ndarray, "n"]:
        """Expected control steps of each event, from the duration head."""
        check_observations(observations, captions)
        expected, rows = np.zeros(len(captions)), self.settings.rows
        for first in range(0, len(captions), rows):
            chosen = range(first, min(first + rows, len(captions)))
            _, steps = self._observe(observations, captions, chosen)
            expected[chosen] = np.asarray(steps)[: len(chosen), 0]
        return expected

    def predict(
        self,
        observations: Sequence[Observation],
        captions: Sequence[str],
        steps: Sequence[int] | None = None,
        *,
        key: PRNGKeyArray,
        dream: bool = True,
    ) -> list[EventPrediction]:
        """Predicts one event for each observation and its caption.

        Args:
            steps: control steps of each event; None asks the duration head.
            key: all randomness; event i uses the i-th stream of it.
            dream: whether to finish the video; without it only the forward passes that the actions need are run.

        Raises:
            InputError: captions and observations do not match, a caption is too long, or steps are not positive.
        """
        check_observations(observations, captions)
        if steps is None:
            longest = self.settings.window.max_steps
            steps = np.clip(np.round(self.durations(observations, captions)), 1, longest).astype(int)
        if len(steps) != len(captions):
            raise InputError("steps", len(steps), f"one for each of {len(captions)} events")
        buckets: dict[int, list[int]] = defaultdict(list)
        for index, count in enumerate(steps):
            buckets[self.settings.window.bucket(int(count))].append(index)
        predictions: dict[int, EventPrediction] = {}
        for bucket, members in sorted(buckets.items()):
            for first in range(0, len(members), self.settings.rows):
                chosen = members[first : first + self.settings.rows]
                predictions |= self._predict_rows(observations, captions, steps, chosen, bucket, key, dream)
        return [predictions[index] for index in range(len(captions))]

    def _predict_rows(self, observations, captions, steps, chosen, bucket, key, dream) -> dict[int, EventPrediction]:
        given, _ = self._observe(observations, captions, chosen)
        batch = self._batch(observations, captions, steps, chosen, bucket)
        indices = np.zeros(self.settings.rows, np.int32)
        indices[: len(chosen)] = chosen
        sample, noise = self._run("noise", 0, key, indices, given)[bucket]
        actions, frames = self._denoise(bucket, batch, given, sample, noise, dream)
        predictions = {}
        for row, index in enumerate(chosen):
            chunk = self._chunk(actions[row, batch.action_mask[row]], observations[index])
            film = None if frames is None else _film(frames[row, batch.frame_mask[row]])
            predictions[index] = EventPrediction(chunk, int(steps[index]), bucket, film)
        return predictions

    def _denoise(self, bucket, batch, given, sample, noise, dream) -> tuple[np.ndarray, np.ndarray | None]:
        """Video to the anchor, actions on the features there, and the rest of the video if it is wanted."""
        solver = self.settings.solver
        for step in itertools.pairwise(solver.times_to_anchor()):
            sample, _ = self._run("video", bucket, self._parameters, batch, given, sample, *step)
        rest = solver.times_from_anchor()
        anchor = (rest[0], rest[min(1, len(rest) - 1)])
        sample, features = self._run("video", bucket, self._parameters, batch, given, sample, *anchor)
        actions = np.asarray(self._run("act", bucket, self._parameters, batch, given, noise, features))
        if not dream:
            return actions, None
        for step in itertools.pairwise(rest[1:]):
            sample, _ = self._run("video", bucket, self._parameters, batch, given, sample, *step)
        return actions, np.asarray(self._run("show", bucket, self._parameters, given, sample))

    def _observe(self, observations, captions, chosen):
        batch = self._batch(observations, captions, np.ones(len(captions), int), chosen, 2)
        return self._run("observe", 0, self._parameters, batch)

    def _batch(self, observations, captions, steps, chosen, bucket):
        return condition_batch(
            [observations[i] for i in chosen], [captions[i] for i in chosen], [int(steps[i]) for i in chosen],
            self.settings.rows, bucket, self.embodiment, self._statistics, self.settings.window,
        )  # fmt: skip

    def _chunk(self, normalised: Float[np.ndarray, "A 26"], observation: Observation) -> ActionChunk:
        absolute = self.embodiment.decode(normalised, observation.state, self._statistics)
        mask = np.ones(len(absolute), bool)
        return ActionChunk(absolute, np.asarray(observation.dof_mask), mask, self.embodiment.control_hz)

    def _run(self, name: str, bucket: int, *arguments: Any) -> Any:
        """Compiles ahead of time on first use, so that a program can never be traced again behind our back."""
        if (name, bucket) not in self._programs:
            self._programs[name, bucket] = jax.jit(self._function(name)).lower(*arguments).compile()
        return self._programs[name, bucket](*arguments)

    def _function(self, name: str) -> Callable[..., Any]:
        model, solver = self._model, self.settings.solver
        return {
            "observe": functools.partial(denoise.observe, model),
            "noise": self._noise,
            "video": functools.partial(denoise.video_step, model),
            "act": functools.partial(denoise.act, model, settings=solver),
            "show": functools.partial(denoise.show, model),
        }[name]

    def _noise(self, key: PRNGKeyArray, indices: Int[Array, "B"], given: denoise.Condition) -> dict[int, tuple]:
        """Noise for every bucket, cut from that of the longest: a longer bucket leaves an event's noise as it is."""
        window = self.settings.window
        shapes = (window.buckets[-1], *given.keyframe.shape[2:]), (self.settings.solver.samples, window.max_steps, 26)
        video, actions = denoise.draw_noise(key, indices, *shapes)
        return {
            bucket: (video[:, :bucket], actions[:, :, : (bucket - 1) * window.steps_per_latent])
            for bucket in window.buckets
        }


def _film(frames: UInt8[np.ndarray, "F R V H W 3"]) -> UInt8[np.ndarray, "T V H W 3"]:
    """Keyframe once, then every raw frame of every later latent."""
    return np.concatenate([frames[0, -1:], frames[1:].reshape(-1, *frames.shape[2:])])
