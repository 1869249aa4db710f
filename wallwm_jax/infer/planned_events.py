"""Event mode with a planner that says what comes next: a person, an agent, the vision-language side (WALL-WM §7).

Whatever the planner or the network does wrong is named, and the robot holds its position.
"""

from typing import NamedTuple

from jaxtyping import PRNGKeyArray

from wallwm_jax.core.planner_states import State
from wallwm_jax.core.types import ActionChunk
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.infer.planner import GuardedPlanner, Planner, PlannerSettings
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import EMPTY_TEXT, Failure, hold


class PlannedEvent(NamedTuple):
    """What to do now, and why."""

    actions: ActionChunk
    """The event's trajectory; the present pose, repeated, if there is nothing to do or something is wrong."""
    caption: str | None
    """The event that is performed; None if none is."""
    state: State | None
    """What the planner said, if it could be read: its decision may be to end, to plan anew or to hand over."""
    failure: Failure | None
    """What is wrong, if anything."""


class PlannedEvents:
    """Asks the planner, performs its answer. How long an event lasts is the duration head's to say."""

    def __init__(self, mode: EventMode, planner: Planner, settings: PlannerSettings):
        self._mode, self._settings = mode, settings
        self._planner = GuardedPlanner(planner, settings, mode.embodiment.control_hz)

    def act(self, request: Request, *, key: PRNGKeyArray) -> PlannedEvent:
        """The next event of one robot. Raises InputError for a state that cannot be acted from, and nothing on the
        planner's account."""
        if not request.instruction.strip():
            return self._held(request, None, Failure(EMPTY_TEXT, "no instruction"))
        answer = self._planner.ask(request)
        if answer.caption is None:
            return self._held(request, answer.state, answer.failure)
        (found,) = self._mode.predict([request.observation], [answer.caption], key=key, dream=False)
        caption = None if found.failure else answer.caption
        return PlannedEvent(found.actions, caption, answer.state, found.failure)

    def _held(self, request: Request, state: State | None, failure: Failure | None) -> PlannedEvent:
        seen, hz = request.observation, self._mode.embodiment.control_hz
        return PlannedEvent(hold(seen.state, seen.dof_mask, self._settings.hold_steps, hz), None, state, failure)
