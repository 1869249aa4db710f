"""A trained policy: load it, show it what the robot sees, send what it answers.

    policy = Policy.load("runs/tabletop", mode="event")
    policy.warm_up()
    result = policy.infer({"front": ..., "wrist": ..., "state": {"x": 0.1, ...}}, caption="lift the red puck")
    for command in result.actions:  # [A, n], one a control step, in the order of result.names
        robot.send(command)

A policy keeps what a rollout needs from one call to the next: the history of observations, the captions of past
events, the number of calls. `reset` forgets it.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.rng import stream, substream
from wallwm_jax.core.types import ActionChunk, Observation
from wallwm_jax.data.embodiment import unit
from wallwm_jax.infer.boundary import assert_sendable
from wallwm_jax.infer.driver import Driver, PolicySettings, Prediction
from wallwm_jax.infer.history import History
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.infer.modes import MODES, InferenceMode, mode_of
from wallwm_jax.infer.observations import blank_observation, robot_observation
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import Failure

HOST, TOTAL = "host", "total"


@dataclasses.dataclass(frozen=True)
class Inference:
    """What a robot is to do next, and how that came about."""

    actions: Float[np.ndarray, "A n"]
    """In the robot's own layout: one command a control step, its numbers in the order of `names`."""
    names: tuple[str, ...]
    """The robot's names of what is commanded (the embodiment's `action` entries)."""
    unified: ActionChunk
    """The same in the unified layout."""
    steps: int
    """Control steps that were asked for or expected; `actions` holds fewer if the mode cannot predict so many."""
    source: str
    """Who said what to do: the name of the text source."""
    caption: str | None
    """The event that is performed, where it was put into words."""
    finished: bool
    """Whether the model's planner takes the task to be done; `actions` then hold the pose for a moment."""
    ends_event: bool
    """Whether the actions go to the end of an event (event mode)."""
    failure: Failure | None
    """Why the actions hold the pose instead of what the network said; None if they don't."""
    clipped: int
    """Numbers of the actions that were beyond the robot's recorded range, and were brought back to its limits."""
    dreamt: bool
    """Whether a dream was asked for."""
    frames: UInt8[np.ndarray, "T V H W 3"] | None
    """The dream: the current pictures and those to come; None unless it was asked for, and after a failure."""
    seconds: Mapping[str, float]
    """Synchronised seconds of every stage of the call that answered (all its robots together): "text", "encode",
    "noise", "video", "action", "decode", "reasoning", "compile" as far as they were run, "host" for the rest, and
    "total". Without `PolicySettings.timings`, "total" alone."""

    def command(self, step: int) -> dict[str, float]:
        """The command of one control step by the robot's names."""
        return dict(zip(self.names, self.actions[step].tolist(), strict=True))


@dataclasses.dataclass
class _Rollout:
    """What is kept of one robot between two calls."""

    history: History | None
    done: tuple[str, ...] = ()
    told: str | None = None
    chunk: int = 0
    seen: int = -1


class Policy:
    """One inference mode of a trained run, on text from a source that can be changed in mid-rollout.

    `infer` serves one robot and keeps count of its steps; `act` serves many, whose callers do. Calls without a key draw
    from a stream of the settings' seed and the number of calls since `reset`, so that a rollout is a function of those
    and of what it is shown.
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
        """The policy of a trained run, with the averaged parameters.

        Args:
            run: the folder of a run, of one of its stages, of that stage's checkpoints, or of one step of them.
            mode: "event" (a whole event at a time) or "unified" (a fixed chunk at a time, from a history).
            text_source: "caption" (every call brings one), "instruction" (the task's, throughout), "latents" (the
                Staircase's) or "planner" (the model's own caption head); None for the mode's usual one.
            modes: the table that `mode` is looked up in.

        Raises:
            InputError: an unknown mode or source, or a run that lacks what they need, named with where it was looked
                for.
        """
        settings, row = settings or PolicySettings(), mode_of(mode, modes)
        run = run if isinstance(run, TrainedRun) else TrainedRun.find(run)
        driver = row.load(run, settings)
        return cls(driver, text_source or row.source, settings, name=row.name, image_size=run.image_size)

    def fork(self) -> "Policy":
        """A policy on the same compiled programs, with rollouts of its own."""
        return Policy(self.driver, self.source, self.settings, name=self.name, image_size=self._image_size)

    def use(self, text_source: str) -> None:
        """Takes the text from another source from now on; the rollout goes on.

        Raises InputError if the run has no such source, saying why.
        """
        self._check_source(text_source)
        self.source = text_source

    def reset(self) -> None:
        """Forgets the rollout: history, past events, instruction and the number of calls."""
        self._rollouts: dict[int, _Rollout] = {}
        self._watched: list[tuple[int, Observation]] = []
        self._instruction, self._calls, self._elapsed, self._next = "", 0, -1, 1

    def observe(self, observation: Observation | Mapping[str, Any], elapsed: int | None = None) -> None:
        """Shows what the robot sees between two calls of `infer`; only a mode with a history makes use of it.

        Such a mode wants to see every `driver.watches`-th control step (the `frame_stride` of its training); what it is
        not shown is masked in its history.

        Args:
            elapsed: control steps since the observation before, of this method or of `infer`; None for
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
        """What the robot is to do from here on.

        Args:
            observation: an `Observation`, or the robot's own dictionary (see `robot_observation`).
            instruction: the task in a person's words; None for the one that this rollout was told before.
            caption: the event that is due, for the source "caption".
            steps: control steps of the event (event mode; None asks the model), or how many of the chunk are wanted
                (unified mode; None for all).
            key: the noise; None draws the call's own.
            text_source: uses another source from this call on.
            done: captions of the events that are over; None for what the policy remembers of this rollout.
            elapsed: control steps since the observation before. None: what the last `infer` answered has been executed
                whole; after an `observe`, `driver.watches` more steps.
            dream: also finish the video.

        Raises:
            InputError: an observation that is wrong, named by camera or entry; no caption or instruction where the
                source needs one; a text that is too long; steps that the mode cannot predict.
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
        """What several robots are to do, each named by its request's `scene`; `elapsed` 0 begins a new rollout.

        Args:
            source: the text source of this call alone; None for the policy's.
            steps: as of `infer`, for each request.
            key: all noise; robot i draws from the i-th stream of it.

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
        """Compiles every program that the available text sources need, before a robot waits; the rollout is reset.

        Args:
            image_size: height and width of the pictures; None for those of the run's curated dataset, or of the
                pictures that have been shown.
            dream: also what finishes a dream.

        Raises:
            InputError: the size of the pictures is not known.
        """
        size = image_size or self._image_size
        if size is None:
            raise InputError("image_size", None, "height and width of the pictures: the run has no curated dataset")
        self._image_size = tuple(size)
        request = Request(blank_observation(self.driver.embodiment, self._image_size), "go", caption="go")
        key, lengths = jax.random.key(0), self.driver.warm_up_steps
        runs = [(source, lengths[-1]) for source in self.driver.sources]
        # Sources differ in nothing that is compiled for a length.
        runs += [(runs[0][0], steps) for steps in lengths[:-1]]
        for source, steps in runs:
            self.act([request], source=source, steps=[steps], key=key, dream=dream)
        self.reset()

    def describe(self) -> dict[str, Any]:
        """What this policy is and what it wants to be given, in plain values."""
        embodiment, driver = self.driver.embodiment, self.driver
        return {
            "mode": self.name,
            "checkpoint": dict(driver.origin),
            "text source": self.source,
            "text sources": {**dict.fromkeys(driver.sources, "available"), **driver.missing},
            "embodiment": embodiment.name,
            "cameras": list(embodiment.views),
            "image size": self._image_size,
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
        """Counts the control steps up to the present observation, of which a rollout's first is step 0."""
        steps = usual if elapsed is None else elapsed
        if steps < 1 and self._elapsed >= 0:
            raise InputError("elapsed", steps, "at least 1 control step since the observation before")
        self._elapsed = 0 if self._elapsed < 0 else self._elapsed + steps
        self._next = max(self.driver.watches, 1)

    def _shown(self, request: Request) -> _Rollout:
        """The rollout of a request's robot, with what it has seen since the last one."""
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
        """Adds the events that are over. People who change the caption of a chunk say that the last event is."""
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
