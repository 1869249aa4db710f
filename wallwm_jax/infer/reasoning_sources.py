"""The vision-language side behind the interfaces of both modes: a planner of events, and a source of text features."""

from collections.abc import Sequence

from wallwm_jax.core.planner_states import Execution, InitialPlan, Unit, serialise
from wallwm_jax.data.traces import NOTHING
from wallwm_jax.infer.denoise import TextCondition
from wallwm_jax.infer.planner import PlannerRequest
from wallwm_jax.infer.reasoning import Reasoning, Situation
from wallwm_jax.infer.text_sources import TextRequest


class EventPlanner:
    """A `Planner` that answers with what the caption head says comes next.

    To a new task it answers with the plan of all events, imagined one after the other with the present picture; later
    with the event that is due, and with the share of that plan that is done. When nothing is left it ends the task.

    Attributes:
      longest: events that a plan has at most.
    """

    def __init__(self, reasoning: Reasoning, longest: int = 40):
        self.longest, self._reasoning = longest, reasoning
        self._totals: dict[str, int] = {}

    def __call__(self, request: PlannerRequest) -> str:
        instruction, done = request.instruction, request.done
        if instruction not in self._totals:
            plan = self._imagined(request)
            self._totals[instruction] = len(done) + len(plan)
            if plan and not done:
                return serialise(InitialPlan(plan)).text
        now, following = self._next(request, done), Unit(False)
        if now == NOTHING:
            return serialise(Execution(True, 100, Unit(False), Unit(False), "End", "")).text
        then = self._next(request, (*done, now))
        if then != NOTHING:
            following = Unit(True, then, 0)
        percent = min(round(100 * len(done) / max(self._totals[instruction], 1)), 99)
        return serialise(Execution(False, percent, Unit(True, now, 0), following, "Continue", "")).text

    def _imagined(self, request: PlannerRequest) -> tuple[str, ...]:
        plan: list[str] = []
        while len(plan) < self.longest:
            caption = self._next(request, (*request.done, *plan))
            if caption == NOTHING:
                break
            plan.append(caption)
        return tuple(plan)

    def _next(self, request: PlannerRequest, done: tuple[str, ...]) -> str:
        (event,) = self._reasoning.next_events([Situation(request.observation, request.instruction, done)])
        return event.caption


class LatentSource:
    """The Staircase's latents: what comes next, never put into words (stage 4)."""

    def __init__(self, reasoning: Reasoning):
        self._reasoning = reasoning

    def condition(self, requests: Sequence[TextRequest]) -> TextCondition:
        return self._reasoning.condition_of_latents([_situation(request) for request in requests])


def _situation(request: TextRequest) -> Situation:
    return Situation(request.observation, request.instruction, request.done)
