"""A trained policy: load it, pass in observations, send the returned actions to the robot.

    policy = Policy.load("runs/tabletop", mode="event")
    policy.warm_up()
    result = policy.infer({"front": ..., "wrist": ..., "state": {"x": 0.1, ...}}, caption="lift the red puck")
    for command in result.actions:  # [A, n], one a control step, in the order of result.names
        robot.send(command)

A policy keeps per-rollout state between calls: the observation history, the captions of past events, and the number of
calls. `reset` clears it.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.rng import stream, substream
from wallwm_jax.core.types import Observation
from wallwm_jax.data.embodiment import unit
from wallwm_jax.infer.boundary import assert_sendable
from wallwm_jax.infer.driver import Driver, PolicySettings, Prediction
from wallwm_jax.infer.history import History
from wallwm_jax.infer.inference import Inference
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.infer.modes import MODES, InferenceMode, mode_of
from wallwm_jax.infer.observations import blank_observation, robot_observation
from wallwm_jax.infer.request import Request

HOST, TOTAL = "host", "total"


@dataclasses.dataclass
class _Rollout:
    """State of one robot between calls."""

    history: History | None
    done: tuple[str, ...] = ()
    told: str | None = None
    chunk: int = 0
    seen: int = -1


class Policy:
    """One inference mode of a trained run. The text source can be switched in the middle of a rollout.

    `infer` serves one robot and counts its control steps; `act` serves a batch of robots whose steps the caller counts.
    Without an explicit key, the noise is a function of the settings' seed and the number of calls since `reset`, so a
    rollout is reproducible from its seed and observations.
    """

    def __init__(
        self,
        driver: Driver,
        text_source: str,
        settings: PolicySettings | None = None,
        *,
        name: str = "",
        image_size: tuple[int, int] | None = None,
    ):
        self.driver, self.settings, self.name = driver, settings or PolicySettings(), name
        self._image_size = image_size
        self.use(text_source)
        self.reset()

    @classmethod
    def load(
        cls,
        run: str | pathlib.Path | TrainedRun,
        *,
        mode: str = "event",
        text_source: str | None = None,
        settings: PolicySettings | None = None,
        modes: Sequence[InferenceMode] = MODES,
    ) -> "Policy":
        """Loads a policy with the averaged parameters of a trained run.

        Args:
            run: folder of a run, one of its stages, the stage's checkpoints, or a single checkpoint step.
            mode: "event" (one whole event per call) or "unified" (one fixed-length chunk per call, from a history).
            text_source: "caption" (passed with every call), "instruction" (the task), "latents" (the Staircase's) or
                "planner" (the model's own next-event head); None for the mode's default.
            modes: the table in which `mode` is looked up; append rows to add modes.

        Raises:
            InputError: an unknown mode or source, or a run that lacks a stage or file they need; it names the path.
        """
        settings, row = settings or PolicySettings(), mode_of(mode, modes)
        run = run if isinstance(run, TrainedRun) else TrainedRun.find(run)
        driver = row.load(run, settings)
        return cls(driver, text_source or row.source, settings, name=row.name, image_size=run.image_size)

    def fork(self) -> "Policy":
        """A policy that shares the compiled programs but has its own rollout state."""
        return Policy(self.driver, self.source, self.settings, name=self.name, image_size=self._image_size)

    def use(self, text_source: str) -> None:
        """Switches to another text source; the rollout continues.

        Raises InputError, with the reason, if the run does not provide that source.
        """
        self._check_source(text_source)
        self.source = text_source

    def reset(self) -> None:
        """Clears the rollout state: history, past events, instruction and call count."""
        self._rollouts: dict[int, _Rollout] = {}
        self._watched: list[tuple[int, Observation]] = []
        self._instruction, self._calls, self._elapsed, self._next = "", 0, -1, 1

    def observe(self, observation: Observation | Mapping[str, Any], elapsed: int | None = None) -> None:
        """Adds an observation to the history between two calls of `infer`; a mode without a history ignores it.

        The history has one frame every `driver.watches` control steps (the `frame_stride` of training); frames that are
        never observed are masked.

        Args:
            elapsed: control steps since the previous observation, passed here or to `infer`; None for
                `driver.watches`.

        Raises:
            InputError: as `infer`.
        """
        seen = self._seen(observation)
        self._advance(elapsed, max(self.driver.watches, 1))
        if self.driver.watches:
            self._watched.append((self._elapsed, seen))

    def infer(
        self,
        observation: Observation | Mapping[str, Any],
        instruction: str | None = None,
        caption: str | None = None,
        steps: int | None = None,
        key: PRNGKeyArray | None = None,
        *,
        text_source: str | None = None,
        done: Sequence[str] | None = None,
        elapsed: int | None = None,
        dream: bool = False,
    ) -> Inference:
        """Predicts the robot's next actions.

        Args:
            observation: an `Observation`, or the robot's own dictionary (see `robot_observation`).
            instruction: the task; None keeps the instruction given earlier in this rollout.
            caption: the event to perform now, for the source "caption".
            steps: event mode: control steps of the event, None for the model's estimate; unified mode: how many steps
                of the chunk to return, None for all.
            key: PRNG key of the noise; None derives one from the seed and the call count.
            text_source: switches the source, as `use` does.
            done: captions of completed events; None for those that the policy remembers from this rollout.
            elapsed: control steps since the previous observation. None assumes that the previous result was executed
                completely or, after a call of `observe`, that `driver.watches` steps have passed.
            dream: also finish denoising the video.

        Raises:
            InputError: an invalid observation (naming the camera or state entry), a missing caption or instruction, a
                text that is too long, or a number of steps that the mode cannot predict.
        """
        if text_source is not None:
            self.use(text_source)
        seen = self._seen(observation)
        if instruction is not None:
            self._instruction = instruction
        before = self._elapsed, self._next
        self._advance(elapsed, self._next)
        request = Request(
            seen,
            self._instruction,
            None if done is None else tuple(done),
            caption,
            elapsed=self._elapsed,
            watched=tuple(self._watched),
        )
        key = substream(stream(self.settings.seed, "policy"), self._calls) if key is None else key
        try:
            (result,) = self.act([request], steps=[steps], key=key, dream=dream)
        except InputError:
            self._elapsed, self._next = before
            raise
        self._watched, self._calls, self._next = [], self._calls + 1, max(len(result.actions), 1)
        return result

    def act(
        self,
        requests: Sequence[Request],
        *,
        source: str | None = None,
        steps: Sequence[int | None] | None = None,
        key: PRNGKeyArray,
        dream: bool = False,
    ) -> list[Inference]:
        """Predicts actions for a batch of robots, identified by `Request.scene`; `elapsed` 0 starts a new rollout.

        Args:
            source: the text source for this call only; None for the policy's.
            steps: as for `infer`, one per request.
            key: PRNG key of all noise; robot i uses the i-th stream.

        Raises:
            InputError: as `infer`.
        """
        started, source = time.perf_counter(), source or self.source
        self._check_source(source)
        counts = [None] * len(requests) if steps is None else list(steps)
        if len(counts) != len(requests):
            raise InputError("steps", len(counts), f"one for each of {len(requests)} requests")
        rollouts = [self._shown(request) for request in requests]
        asked = [
            request._replace(done=rollout.done if request.done is None else request.done, chunk=rollout.chunk)
            for request, rollout in zip(requests, rollouts, strict=True)
        ]
        histories = [rollout.history for rollout in rollouts]
        predictions = self.driver.predict(asked, histories, source, steps=counts, key=key, dream=dream)
        for request, rollout, prediction in zip(requests, rollouts, predictions, strict=True):
            self._remember(rollout, request, prediction)
        outcomes = [self._commands(prediction) for prediction in predictions]
        seconds = self._seconds(time.perf_counter() - started)
        return [
            self._result(prediction, commands, source, dream, seconds)
            for prediction, commands in zip(predictions, outcomes, strict=True)
        ]

    def warm_up(self, image_size: tuple[int, int] | None = None, dream: bool = False) -> None:
        """Compiles every program that `infer` can run, for all text sources, and resets the rollout.

        Args:
            image_size: height and width of the pictures; None for the size in the run's curated dataset, or of the
                observations so far.
            dream: also compile the programs that finish a dream.

        Raises:
            InputError: the picture size is unknown.
        """
        size = image_size or self._image_size
        if size is None:
            raise InputError("image_size", None, "height and width of the pictures: the run has no curated dataset")
        self._image_size = tuple(size)
        request = Request(blank_observation(self.driver.embodiment, self._image_size), "go", caption="go")
        key, lengths = jax.random.key(0), self.driver.warm_up_steps
        runs = [(source, lengths[-1]) for source in self.driver.sources]
        # Programs that depend on the length do not depend on the source, so one source covers all lengths.
        runs += [(runs[0][0], steps) for steps in lengths[:-1]]
        for source, steps in runs:
            self.act([request], source=source, steps=[steps], key=key, dream=dream)
        self.reset()

    def describe(self) -> dict[str, Any]:
        """Mode, checkpoint, text sources, and the expected inputs and outputs with units, as JSON-compatible values."""
        embodiment, driver = self.driver.embodiment, self.driver
        return {
            "mode": self.name,
            "checkpoint": dict(driver.origin),
            "text source": self.source,
            "text sources": {**dict.fromkeys(driver.sources, "available"), **driver.missing},
            "embodiment": embodiment.name,
            "cameras": list(embodiment.views),
            "image size": None if self._image_size is None else list(self._image_size),
            "state": {name: f"{slot}, {unit(slot)}" for name, slot in embodiment.state.items()},
            "action": {name: f"{slot}, {unit(slot)}" for name, slot in embodiment.action.items()},
            "control rate, Hz": embodiment.control_hz,
            "steps a call": f"at most {driver.steps}" if driver.ends_events else driver.steps,
            "steps between observations": driver.watches or None,
        }

    def _check_source(self, name: str) -> None:
        if name not in self.driver.sources:
            reasons = "".join(f"; {source!r}: {reason}" for source, reason in self.driver.missing.items())
            raise InputError("text_source", repr(name), f"one of {tuple(self.driver.sources)}{reasons}")

    def _seen(self, observation: Observation | Mapping[str, Any]) -> Observation:
        seen = robot_observation(observation, self.driver.embodiment, self._image_size)
        self._image_size = seen.views.shape[1:3]
        return seen

    def _advance(self, elapsed: int | None, usual: int) -> None:
        """Advances the control-step counter to the present observation; the first of a rollout is step 0."""
        steps = usual if elapsed is None else elapsed
        if steps < 1 and self._elapsed >= 0:
            raise InputError("elapsed", steps, "at least 1 control step since the observation before")
        self._elapsed = 0 if self._elapsed < 0 else self._elapsed + steps
        self._next = max(self.driver.watches, 1)

    def _shown(self, request: Request) -> _Rollout:
        """The rollout state of a request's robot, with the new observations added to its history."""
        if request.elapsed == 0 or request.scene not in self._rollouts:
            self._rollouts[request.scene] = _Rollout(self.driver.history())
        rollout = self._rollouts[request.scene]
        if rollout.history is not None:
            for elapsed, observation in (*request.watched, (request.elapsed, request.observation)):
                if elapsed > rollout.seen:
                    rollout.history.push(observation, elapsed - rollout.seen)
                    rollout.seen = elapsed
                elif elapsed == rollout.seen:  # asked again, after a request that was refused
                    rollout.history.replace(observation)
        return rollout

    def _remember(self, rollout: _Rollout, request: Request, prediction: Prediction) -> None:
        """Records completed events. In a chunked mode, a changed caption means that the previous event is complete."""
        over = [prediction.over]
        given = request.caption is not None and prediction.caption == request.caption
        if given and not self.driver.ends_events:
            over = [rollout.told if rollout.told != request.caption else None, prediction.over]
            rollout.told = request.caption
        for caption in over:
            if caption is not None and rollout.done[-1:] != (caption,):
                rollout.done = (*rollout.done, caption)
        rollout.chunk += 1

    def _commands(self, prediction: Prediction) -> Float[np.ndarray, "A n"]:
        embodiment = self.driver.embodiment
        commands = embodiment.lower(prediction.actions.actions)
        if self.settings.checks:
            assert_sendable(prediction.actions, commands, tuple(embodiment.action))
        return commands

    def _seconds(self, total: float) -> dict[str, float]:
        timer = self.driver.timer
        stages = timer.take() if timer is not None else {}
        host = {HOST: max(total - sum(stages.values()), 0.0)} if timer is not None else {}
        return {**stages, **host, TOTAL: total}

    def _result(
        self, said: Prediction, commands: np.ndarray, source: str, dream: bool, seconds: Mapping[str, float]
    ) -> Inference:
        return Inference(
            actions=commands,
            names=tuple(self.driver.embodiment.action),
            unified=said.actions,
            steps=said.steps,
            source=source,
            caption=said.caption,
            finished=said.finished,
            ends_event=said.ends_event,
            failure=said.failure,
            clipped=said.clipped,
            dreamt=dream,
            frames=said.frames,
            seconds=seconds,
        )
