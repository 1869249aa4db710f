"""What drives a closed loop: the contract, event mode, the scripted expert (upper bound), standing still (lower)."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, PRNGKeyArray
from numpy import ndarray

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.rng import substream
from wallwm_jax.core.types import Observation
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.simulate import expert
from wallwm_jax.simulate.environment import TabletopEnvironment
from wallwm_jax.simulate.programs import named_primitive


class Request(NamedTuple):
    """What a controller may know of one scene at one moment."""

    scene: int
    """Number of the scene in its cell, the same throughout an episode."""
    observation: Observation
    instruction: str
    caption: str | None
    """The due event's, for controllers whose `oracle` is True; the same until that event ends."""
    completed: tuple[str, ...]
    """Captions of the events that the controller has itself announced as done, in order: its memory."""
    elapsed: int
    """Control steps since the episode began; 0 says that a new one has begun in this scene."""
    watched: tuple[tuple[int, Observation], ...] = ()
    """What was seen since the last request and before the present, and at how many `elapsed` steps; for controllers
    that ask for it (`watches`)."""


class Plan(NamedTuple):
    """What a controller wants done before the scene's next observation."""

    commands: Float[ndarray, "steps dof"]
    """Absolute targets in the embodiment's action order, one a control step."""
    announced: str | None = None
    """Caption of the event that the controller believes it performs."""
    event_done: bool = False
    """Whether these commands end that event."""


@runtime_checkable
class Controller(Protocol):
    """Answers every request with a plan.

    Attributes:
      oracle: whether it is told the due event's caption.
      watches: it is shown what happens while its commands are executed, after every `watches`-th control step of an
        episode; 0: it is not.
      ends_events: True if the due event is over when the controller says so (`event_done`); False if it is over when
        the scene shows it as done, whatever the controller announces. Either way the step limit ends it too.
    """

    name: str
    oracle: bool
    watches: int
    ends_events: bool

    def act(self, requests: Sequence[Request]) -> Sequence[Plan]: ...


def _captions(controller: Controller, requests: Sequence[Request]) -> list[str]:
    missing = [request.scene for request in requests if request.caption is None]
    if missing:
        raise InputError(f"controller {controller.name!r}: captions of scenes", f"none in {missing}", "the oracle's")
    return [request.caption for request in requests]


def _position(observation: Observation) -> Float[ndarray, "dof"]:
    """Where the arm is, in the order of the unified layout's actuated entries."""
    return observation.state[observation.dof_mask]


class HoldController:
    """Commands the pose it sees, for one second an event."""

    name, oracle, watches, ends_events = "hold still", False, 0, True

    def __init__(self, steps: int = 20):
        self._steps = steps

    def act(self, requests: Sequence[Request]) -> list[Plan]:
        return [
            Plan(np.repeat(_position(request.observation)[None], self._steps, axis=0), None, True)
            for request in requests
        ]


class EventController:
    """Event mode with the oracle's captions (WALL-WM §7); the duration head sets the length of an event when it begins.

    Args:
        key: all noise; every call draws its own.
        replan_every: control steps after which the rest of an event is predicted again from a new observation; None
            executes the whole event open loop, as the paper does.
    """

    oracle, watches, ends_events = True, 0, True

    def __init__(self, mode: EventMode, key: PRNGKeyArray, replan_every: int | None = None):
        if replan_every is not None and replan_every < 1:
            raise InputError("replan_every", replan_every, "at least 1, or None")
        self.name = "event mode" if replan_every is None else f"event mode, observing every {replan_every}"
        self._mode, self._key, self._every, self._calls = mode, key, replan_every, 0
        self._remaining: dict[int, tuple[str, int]] = {}

    def act(self, requests: Sequence[Request]) -> list[Plan]:
        captions = _captions(self, requests)
        steps = self._steps(requests, captions)
        key = substream(self._key, self._calls)
        self._calls += 1
        observations = [request.observation for request in requests]
        predictions = self._mode.predict(observations, captions, steps, key=key, dream=False)
        plans = []
        for request, caption, count, prediction in zip(requests, captions, steps, predictions, strict=True):
            commands = self._mode.embodiment.lower(prediction.actions.actions)[: self._every]
            rest = count - len(commands)
            self._remaining[request.scene] = (caption, rest)
            plans.append(Plan(commands, caption, rest <= 0))
        return plans

    def _steps(self, requests: Sequence[Request], captions: Sequence[str]) -> list[int]:
        """Control steps of each event: the rest of one that goes on, what the duration head says of a new one.

        Two events that follow each other never have the same caption.
        """
        steps: dict[int, int] = {}
        for place, (request, caption) in enumerate(zip(requests, captions, strict=True)):
            before, rest = self._remaining.get(request.scene, ("", 0))
            if request.elapsed and before == caption and rest > 0:
                steps[place] = rest
        new = [place for place in range(len(requests)) if place not in steps]
        if new:
            chosen = [requests[place].observation for place in new], [captions[place] for place in new]
            expected = np.round(self._mode.durations(*chosen))
            longest = self._mode.settings.window.max_steps
            steps |= dict(zip(new, np.clip(expected, 1, longest).astype(int).tolist(), strict=True))
        return [steps[place] for place in range(len(requests))]


class ExpertController:
    """The scripted expert that recorded the data: it knows the scene's true state. Upper bound.

    Args:
        environments: the simulator of each scene.
        seed: of its style and noise.
    """

    name, oracle, watches, ends_events = "scripted expert", True, 0, True

    def __init__(self, environments: Sequence[TabletopEnvironment], seed: int = 0):
        self._environments, self._seed = environments, seed
        self._scenes: dict[int, _ExpertScene] = {}

    def act(self, requests: Sequence[Request]) -> list[Plan]:
        captions = _captions(self, requests)
        for request in requests:
            if request.elapsed == 0:
                generator = np.random.Generator(np.random.Philox(key=[self._seed, request.scene]))
                environment = self._environments[request.scene]
                self._scenes[request.scene] = _ExpertScene(environment, generator)
        return [self._scenes[request.scene].plan(caption) for request, caption in zip(requests, captions, strict=True)]


class _ExpertScene:
    """The expert in one episode: its style, its noise and the gripper's last command."""

    def __init__(self, environment: TabletopEnvironment, generator: np.random.Generator):
        self._environment, self._generator = environment, generator
        self._style = expert.draw_style(generator)
        self._gripper = environment.layout.gripper

    def plan(self, caption: str) -> Plan:
        primitive = named_primitive(caption)
        if primitive is None:
            raise InputError("caption", caption, "a paraphrase of an event that the expert knows")
        motion = expert.motion(primitive, self._environment.snapshot(), self._style, self._generator)
        commands = np.stack(list(expert.actions(motion, self._gripper, self._style, None)))
        self._gripper = float(commands[-1, -1])
        return Plan(commands, caption, True)
