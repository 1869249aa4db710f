"""Closed loop: event mode drives the simulator through task programs, with the true caption of each event."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.rng import stream
from wallwm_jax.core.types import Observation
from wallwm_jax.evaluate.results import ClosedLoopResult
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.infer.policy import EventPolicy
from wallwm_jax.simulate import programs


@runtime_checkable
class Environment(Protocol):
    """What a simulator must offer; `simulate.environment.TabletopEnvironment` does."""

    def reset(self, seed: int, program: programs.Program) -> None: ...

    def observe(self) -> Observation: ...

    def step(self, action: Float[np.ndarray, "n"]) -> None: ...

    def begin_event(self) -> None: ...

    def event_completed(self, verb: str, object: str, target: str | None) -> bool: ...

    def close(self) -> None: ...


FIRST_SEED = 5_000_000
"""Seeds from here on are in no recording plan."""


def drive(mode: EventMode, episodes: int, seed: int = 0) -> ClosedLoopResult:
    """Performs `episodes` unseen scenes of the tabletop, short and long programs in turn (extra `sim`)."""
    from wallwm_jax.simulate.environment import TabletopEnvironment

    kinds = (programs.SHORT_PROGRAMS, programs.LONG_PROGRAMS)
    plan = []
    for number in range(episodes):
        kind = kinds[number % 2]
        plan.append((FIRST_SEED + number, kind[number // 2 % len(kind)]))
    return run_closed_loop(mode, [TabletopEnvironment() for _ in plan], plan, seed)


def run_closed_loop(
    mode: EventMode,
    environments: Sequence[Environment],
    episodes: Sequence[tuple[int, programs.Program]],
    seed: int = 0,
) -> ClosedLoopResult:
    """Performs one (scene seed, program) in each environment, side by side, and asks the simulator after each event
    whether it is done; closes the environments.

    Every episode goes on after a failed event, from wherever that has left the scene, so one failure makes the later
    events of its task hard or impossible.
    """
    policy = EventPolicy(mode, stream(seed, "closed_loop"))
    done: list[list[bool]] = [[] for _ in episodes]
    tally: dict[str, list[bool]] = defaultdict(list)
    try:
        for environment, (scene, program) in zip(environments, episodes, strict=True):
            environment.reset(scene, program)
        for turn in range(max((len(program.primitives) for _, program in episodes), default=0)):
            acting = [place for place, (_, program) in enumerate(episodes) if turn < len(program.primitives)]
            primitives = [episodes[place][1].primitives[turn] for place in acting]
            outcomes = _perform(policy, [environments[place] for place in acting], primitives, turn, seed)
            for place, primitive, completed in zip(acting, primitives, outcomes, strict=True):
                done[place].append(completed)
                tally[primitive.verb].append(completed)
    finally:
        for environment in environments:
            environment.close()
    return ClosedLoopResult(
        episodes=len(episodes),
        events=sum(map(len, done)),
        completed=sum(map(sum, done)),
        by_verb={verb: (sum(outcomes), len(outcomes)) for verb, outcomes in tally.items()},
        episodes_completed=sum(map(all, done)),
    )


def _perform(
    policy: EventPolicy,
    environments: Sequence[Environment],
    primitives: Sequence[programs.Primitive],
    turn: int,
    seed: int,
) -> list[bool]:
    """One event in every environment: observe, plan all at once, execute, judge."""
    generator = np.random.Generator(np.random.Philox(key=[seed, turn]))
    captions = [programs.caption(primitive, generator) for primitive in primitives]
    plans = policy.plan([environment.observe() for environment in environments], captions, turn)
    outcomes = []
    for environment, primitive, commands in zip(environments, primitives, plans, strict=True):
        environment.begin_event()
        for command in commands:
            environment.step(command)
        outcomes.append(environment.event_completed(primitive.verb, primitive.object, primitive.target))
    return outcomes
