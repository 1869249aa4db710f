"""Controllers of the closed loop that no oracle helps: event mode with its own planner, and unified mode on any source
of text."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import PRNGKeyArray

from wallwm_jax.core.rng import substream
from wallwm_jax.data.traces import NOTHING
from wallwm_jax.evaluate.controllers import Plan, Request
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.infer.history import History
from wallwm_jax.infer.reasoning import Reasoning, Situation
from wallwm_jax.infer.text_sources import TextRequest, TextSource
from wallwm_jax.infer.unified_mode import UnifiedMode

WAIT = 4
"""Control steps that a controller waits for when it takes the task to be done."""


class PlannedEventController:
    """Event mode with next event and remaining time from the vision-language side's heads (WALL-WM §7)."""

    name, oracle, watches, ends_events = "event mode, own planner", False, 0, True

    def __init__(self, mode: EventMode, reasoning: Reasoning, key: PRNGKeyArray):
        self._mode, self._reasoning, self._key, self._calls = mode, reasoning, key, 0

    def act(self, requests: Sequence[Request]) -> list[Plan]:
        key = substream(self._key, self._calls)
        self._calls += 1
        found = self._reasoning.next_events([_situation(request) for request in requests])
        plans = [waiting(request) for request in requests]
        busy = [place for place, event in enumerate(found) if event.caption != NOTHING]
        if busy:
            longest = self._mode.settings.window.max_steps
            steps = [int(np.clip(round(found[place].steps), 1, longest)) for place in busy]
            captions = [found[place].caption for place in busy]
            observations = [requests[place].observation for place in busy]
            predictions = self._mode.predict(observations, captions, steps, key=key, dream=False)
            for place, caption, prediction in zip(busy, captions, predictions, strict=True):
                plans[place] = Plan(self._mode.embodiment.lower(prediction.actions.actions), caption, True)
        return plans


class UnifiedController:
    """Unified mode: a chunk at a time, on text from one source (WALL-WM §7).

    Args:
        name: of the source.
        key: all noise; every call draws its own.
        oracle: whether the source is told the due event's caption.
        reasoning: keeps the memory of past events, for sources that read it: an event is taken to be over after the
            chunk within which its remaining time was expected to end. None keeps none.
    """

    ends_events = False

    def __init__(
        self,
        mode: UnifiedMode,
        name: str,
        source: TextSource,
        key: PRNGKeyArray,
        oracle: bool = False,
        reasoning: Reasoning | None = None,
    ):
        self.name, self.oracle, self.watches = f"unified mode, {name}", oracle, mode.settings.window.frame_stride
        self._mode, self._source, self._key, self._calls, self._reasoning = mode, source, key, 0, reasoning
        self._histories: dict[int, History] = {}
        self._memory: dict[int, tuple[str, ...]] = {}
        self._seen: dict[int, int] = {}

    def act(self, requests: Sequence[Request]) -> list[Plan]:
        key = substream(self._key, self._calls)
        self._calls += 1
        for request in requests:
            if request.elapsed == 0:
                self._histories[request.scene], self._memory[request.scene] = self._mode.history(), ()
                self._seen[request.scene] = -1
            for elapsed, observation in (*request.watched, (request.elapsed, request.observation)):
                self._histories[request.scene].push(observation, elapsed - self._seen[request.scene])
                self._seen[request.scene] = elapsed
        text = self._source.condition([self._asked(request) for request in requests])
        self._remember(requests)
        histories = [self._histories[request.scene] for request in requests]
        predictions = self._mode.act(histories, text, key=key)
        lower = self._mode.embodiment.lower
        return [Plan(lower(prediction.actions.actions)) for prediction in predictions]

    def _asked(self, request: Request) -> TextRequest:
        memory = self._memory[request.scene]
        return TextRequest(request.instruction, request.observation, request.elapsed, memory, request.caption)

    def _remember(self, requests: Sequence[Request]) -> None:
        """Adds the events that this chunk is expected to end."""
        if self._reasoning is None:
            return
        situations = [
            Situation(request.observation, request.instruction, self._memory[request.scene]) for request in requests
        ]
        for request, event in zip(requests, self._reasoning.next_events(situations), strict=True):
            if event.caption != NOTHING and event.steps <= self._mode.settings.window.steps:
                self._memory[request.scene] = (*self._memory[request.scene], event.caption)


def waiting(request: Request) -> Plan:
    """Commands of the pose that the robot is in."""
    pose = request.observation.state[request.observation.dof_mask]
    return Plan(np.repeat(pose[None], WAIT, axis=0), None, False)


def _situation(request: Request) -> Situation:
    return Situation(request.observation, request.instruction, request.completed)
