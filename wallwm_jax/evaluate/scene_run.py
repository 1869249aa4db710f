"""One episode of a closed loop while it runs: which event is due, what is sent to the robot, what came of it."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.types import Observation
from wallwm_jax.evaluate.closed_loop_results import EpisodeResult, EventOutcome
from wallwm_jax.evaluate.controllers import Controller, Plan
from wallwm_jax.evaluate.protocol import FIRST, ClosedLoopProtocol, Episode
from wallwm_jax.evaluate.safety import Guard
from wallwm_jax.evaluate.task_progress import TaskOutcome
from wallwm_jax.infer.request import Request
from wallwm_jax.simulate import programs

HOLD_STEPS = 10
"""Control steps for which a scene holds its position when its controller has given it no plan."""


@runtime_checkable
class Environment(Protocol):
    """What a simulator must offer; `simulate.environment.TabletopEnvironment` does."""

    def reset(self, seed: int, program: programs.Program) -> None: ...

    def observe(self) -> Observation: ...

    def step(self, action: Float[np.ndarray, "n"]) -> None: ...

    def begin_event(self) -> None: ...

    def event_completed(self, verb: str, object: str, target: str | None) -> bool: ...

    def close(self) -> None: ...


class SceneRun:
    """Resets the scene and keeps its books until the episode is over: its last event has ended, or its steps are used.

    An episode goes on after a failed event, from wherever that has left the scene.
    """

    def __init__(self, number: int, environment: Environment, episode: Episode, protocol: ClosedLoopProtocol):
        self._number, self._environment, self._episode, self._protocol = number, environment, episode, protocol
        generator = np.random.Generator(np.random.Philox(key=[episode.seed, 4]))
        self._due = [
            (task, primitive, self._caption(primitive, generator))
            for task, name in enumerate(episode.tasks)
            for primitive in programs.task_primitives(name)
        ]
        self._elapsed = self._event_steps = self._made = self._right = self._asked = 0
        self._events: list[EventOutcome] = []
        self._reached: list[bool] = []
        self._announced: list[str] = []
        self._films: list[np.ndarray] = []
        self._watched: list[tuple[int, Observation]] = []
        self._guard: Guard | None = None
        environment.reset(episode.seed, episode.start)
        environment.begin_event()

    def _caption(self, primitive: programs.Primitive, generator: np.random.Generator) -> str:
        if self._protocol.captions == FIRST:
            return programs.paraphrases(primitive)[0]
        return programs.caption(primitive, generator)

    @property
    def over(self) -> bool:
        return len(self._events) == len(self._due) or self._elapsed >= self._protocol.episode_steps

    def request(self, controller: Controller) -> Request:
        """A fresh observation and what else the controller may know. One that ends no events announces none either:
        what is over it must remember itself."""
        task, _, caption = self._due[len(self._events)]
        observation = self._see()
        instruction = self._episode.instruction(task)
        watched, self._watched = tuple(self._watched), []
        self._asked += 1
        return Request(
            observation,
            instruction,
            done=tuple(self._announced) if controller.ends_events else None,
            caption=caption if controller.oracle else None,
            chunk=self._asked - 1,
            elapsed=self._elapsed,
            scene=self._number,
            watched=watched,
        )

    def _see(self) -> Observation:
        just_watched = self._watched and self._watched[-1][0] == self._elapsed
        observation = self._watched.pop()[1] if just_watched else self._environment.observe()
        self._films.append(observation.views[0])
        position = observation.state[observation.dof_mask]
        if self._guard is None:
            self._guard = Guard(self._protocol.limits, self._protocol.control_hz, position)
        self._guard.observe(position)
        return observation

    def execute(self, plan: Plan, controller: Controller) -> None:
        """Sends the plan's commands, as far as they are safe, and ends the events that end meanwhile."""
        if plan.announced is not None:
            self._made += 1
            self._right += programs.named_primitive(plan.announced) == self._due[len(self._events)][1]
        commands = self._guard.check_plan(plan.commands, self._protocol.longest_plan)
        if commands is None:
            self._hold(controller)
            return
        for number, command in enumerate(commands, start=1):
            says_done = plan.event_done and number == len(commands)
            if self._step(self._guard.safe(command), says_done, controller) and controller.ends_events:
                break
            if self.over:
                break
        if plan.event_done and plan.announced is not None:
            self._announced.append(plan.announced)

    def hold(self, reason: str, controller: Controller) -> None:
        """Keeps the last safe position for a while, because the controller has given no plan."""
        self._guard.refusals[reason] += 1
        self._hold(controller)

    def _hold(self, controller: Controller) -> None:
        for _ in range(HOLD_STEPS):
            self._step(self._guard.last, False, controller)
            if self.over:
                break

    def _step(self, command: np.ndarray, says_done: bool, controller: Controller) -> bool:
        """One control step. Returns whether the due event ended with it, for whatever reason."""
        ends_events = controller.ends_events
        self._environment.step(command)
        self._elapsed, self._event_steps = self._elapsed + 1, self._event_steps + 1
        if controller.watches and self._elapsed % controller.watches == 0:
            self._watched.append((self._elapsed, self._environment.observe()))
        limit = self._event_steps >= self._protocol.event_steps
        if ends_events and not (says_done or limit):
            return False
        completed = self._judge(self._due[len(self._events)][1])
        if not (ends_events or completed or limit):
            return False
        self._end_event(completed)
        return True

    def _judge(self, primitive: programs.Primitive) -> bool:
        return self._environment.event_completed(primitive.verb, primitive.object, primitive.target)

    def _end_event(self, completed: bool) -> None:
        task, primitive, caption = self._due[len(self._events)]
        self._events.append(EventOutcome(task, primitive.verb, primitive.object, caption, completed, self._event_steps))
        if len(self._events) == len(self._due) or self._due[len(self._events)][0] != task:
            self._reached.append(self._goal_holds(task))
        self._event_steps = 0
        self._environment.begin_event()

    def _goal_holds(self, task: int) -> bool:
        """Whether the goal state of a task holds now; for one that does not last, whether its event was completed."""
        name, rubric = self._episode.tasks[task], self._protocol.rubric
        goal = rubric.goal(name)
        if rubric.lasts((name,), 0):
            return self._judge(goal)
        return any(event.task == task and event.verb == goal.verb and event.completed for event in self._events)

    def finish(self) -> EpisodeResult:
        """Judges what had to last and closes the books; an event under way when the steps ran out has failed."""
        if len(self._events) < len(self._due) and self._event_steps:
            task, primitive, caption = self._due[len(self._events)]
            self._events.append(EventOutcome(task, primitive.verb, primitive.object, caption, False, self._event_steps))
        self._see()
        tasks = self._episode.tasks
        outcomes = tuple(self._outcome(tasks, place) for place in range(len(tasks)))
        return EpisodeResult(
            self._episode.seed,
            self._episode.name,
            outcomes,
            self._protocol.rubric.progress(outcomes),
            tuple(self._events),
            self._elapsed,
            dict(self._guard.refusals),
            (self._right, self._made),
            np.stack(self._films),
        )

    def _outcome(self, tasks: tuple[str, ...], place: int) -> TaskOutcome:
        events = [event.completed for event in self._events if event.task == place]
        missing = len(programs.task_primitives(tasks[place])) - len(events)
        reached = place < len(self._reached) and self._reached[place]
        lasts = self._protocol.rubric.lasts(tasks, place)
        kept = self._goal_holds(place) if lasts else reached
        return TaskOutcome(tasks[place], (*events, *[False] * missing), reached, kept)
