"""What drives a closed loop: the contract, policies, the scripted expert (upper bound), standing still (lower)."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, PRNGKeyArray
from numpy import ndarray

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.rng import substream
from wallwm_jax.core.types import Observation
from wallwm_jax.infer.modes import InferenceMode
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.text_sources import CAPTION
from wallwm_jax.simulate import expert
from wallwm_jax.simulate.environment import TabletopEnvironment
from wallwm_jax.simulate.programs import named_primitive


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


class PolicyController:
    """A policy on text from one source (WALL-WM §7).

    Args:
        policy: its compiled programs are shared, its rollouts are not.
        source: of the text; "caption" is the oracle's.
        name: of the result.
        key: all noise; every call draws its own.
        replan_every: control steps after which the rest of an event is predicted again from a new observation; None
            executes what is predicted open loop, as the paper does.
    """

    def __init__(self, policy: Policy, source: str, name: str, key: PRNGKeyArray, *, replan_every: int | None = None):
        if replan_every is not None and replan_every < 1:
            raise InputError("replan_every", replan_every, "at least 1, or None")
        self.name = name if replan_every is None else f"{name}, observing every {replan_every}"
        self.oracle, self.watches = source == CAPTION, policy.driver.watches
        self.ends_events = policy.driver.ends_events
        self._policy, self._source, self._key, self._every = policy.fork(), source, key, replan_every
        self._calls, self._remaining = 0, {}

    def act(self, requests: Sequence[Request]) -> list[Plan]:
        if self.oracle:
            _captions(self, requests)
        key = substream(self._key, self._calls)
        self._calls += 1
        steps = [self._rest(request) for request in requests]
        answers = self._policy.act(requests, source=self._source, steps=steps, key=key)
        plans = []
        for request, answer in zip(requests, answers, strict=True):
            commands = answer.actions[: self._every]
            rest = answer.steps - len(commands)
            self._remaining[request.scene] = (request.caption, rest)
            announced = answer.caption if self.ends_events else None
            plans.append(Plan(commands, announced, answer.ends_event and rest <= 0))
        return plans

    def _rest(self, request: Request) -> int | None:
        """Control steps that are left of an event that goes on; None for a new one, whose length the mode decides.

        Two events that follow each other never have the same caption.
        """
        before, rest = self._remaining.get(request.scene, (None, 0))
        goes_on = self._every is not None and before is not None and before == request.caption
        return rest if request.elapsed and goes_on and rest > 0 else None


def compared_controllers(
    mode: InferenceMode, policy: Policy, key: PRNGKeyArray, replan_every: int | None = None
) -> list[PolicyController]:
    """A controller for every text source that a mode's row compares and the policy has; where events are predicted
    from the oracle's captions, one more that observes again, if `replan_every` says how often."""
    controllers = []
    for source, name in mode.compared.items():
        if source not in policy.driver.sources:
            continue
        controllers.append(PolicyController(policy, source, name, key))
        if replan_every and source == CAPTION and policy.driver.ends_events:
            controllers.append(PolicyController(policy, source, name, key, replan_every=replan_every))
    return controllers


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
