"""The vision-language side behind the interfaces of both modes: a planner of events, and a source of text features."""

from collections.abc import Sequence

from wallwm_jax.core.planner_states import Execution, InitialPlan, Unit, serialise
from wallwm_jax.data import text
from wallwm_jax.data.traces import NOTHING
from wallwm_jax.infer.denoise import TextCondition
from wallwm_jax.infer.planner import LONG_CAPTION
from wallwm_jax.infer.reasoning import NextEvent, Reasoning
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import Failure
from wallwm_jax.infer.text_sources import (
    CAPTION,
    INSTRUCTION,
    LATENTS,
    PLANNER,
    CaptionSource,
    Encode,
    InstructionSource,
    TextSource,
)


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

    def __call__(self, request: Request) -> str:
        instruction, done = request.instruction, request.memory
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

    def _imagined(self, request: Request) -> tuple[str, ...]:
        plan: list[str] = []
        while len(plan) < self.longest:
            caption = self._next(request, (*request.memory, *plan))
            if caption == NOTHING:
                break
            plan.append(caption)
        return tuple(plan)

    def _next(self, request: Request, done: tuple[str, ...]) -> str:
        (event,) = self._reasoning.next_events([request._replace(done=done)])
        return event.caption


class LatentSource:
    """The Staircase's latents: what comes next, never put into words (stage 4)."""

    def __init__(self, reasoning: Reasoning):
        self._reasoning = reasoning

    def condition(self, requests: Sequence[Request]) -> TextCondition:
        return self._reasoning.condition_of_latents(requests)


def text_sources(encode: Encode, reasoning: Reasoning | None) -> dict[str, TextSource]:
    """All sources by name; those of the vision-language side if there is one."""
    captions = CaptionSource(encode)
    sources: dict[str, TextSource] = {CAPTION: captions, INSTRUCTION: InstructionSource(encode)}
    if reasoning is not None:
        sources |= {LATENTS: LatentSource(reasoning), PLANNER: captions}
    return sources


def with_next_events(
    source: str, reasoning: Reasoning | None, requests: Sequence[Request], text_length: int
) -> tuple[list[Request], list[NextEvent | None]]:
    """The requests as `source` is asked them, and the next event of each as the caption head names it: for PLANNER it
    becomes the request's caption, blank if it has more tokens than `text_length`. None for sources that people speak
    through."""
    if source not in (LATENTS, PLANNER):
        return list(requests), [None] * len(requests)
    events = reasoning.next_events(requests)
    if source == LATENTS:
        return list(requests), events
    captions = ["" if too_long(source, event, text_length) else event.caption for event in events]
    return [request._replace(caption=caption) for request, caption in zip(requests, captions, strict=True)], events


def too_long(source: str, event: NextEvent | None, text_length: int) -> Failure | None:
    """Why the planner's caption cannot be acted on, if the text encoder cannot read it."""
    if source != PLANNER or event is None or text.token_count(event.caption) <= text_length:
        return None
    return Failure(LONG_CAPTION, f"{text.token_count(event.caption)} tokens")


def is_finished(source: str, event: NextEvent | None) -> bool:
    """Whether the planner has decided that nothing is left to do. Latents decide nothing: they are acted on."""
    return source == PLANNER and event is not None and event.caption == NOTHING


def words_of(event: NextEvent | None) -> str | None:
    """The caption of an event, None if there is no event."""
    return None if event is None or event.caption == NOTHING else event.caption
