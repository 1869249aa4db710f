"""Who says what comes next in event mode, and a guard around them: late, broken or senseless answers become a hold."""

import dataclasses
import queue
import threading
from collections.abc import Callable

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.planner_states import InitialPlan, State, parse
from wallwm_jax.core.types import ActionChunk
from wallwm_jax.data import text
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import Failure, hold

PLANNER_ERROR, PLANNER_TIMEOUT, PLANNER_BUSY, PLANNER_SCHEMA, UNKNOWN_CAPTION, LONG_CAPTION = (
    "planner error",
    "planner timeout",
    "planner busy",
    "planner schema",
    "unknown caption",
    "long caption",
)


Planner = Callable[[Request], str]
"""Answers with the JSON text of a planner state (`core.planner_states`)."""


@dataclasses.dataclass(frozen=True)
class PlannerSettings:
    """`seconds`: the time limit; `text_length`: tokens that a caption may have; `captions`: those that are known, None
    for any; `hold_steps`: control steps of the hold that stands in for a plan that failed."""

    seconds: float = 10.0
    text_length: int = 56
    captions: frozenset[str] | None = None
    hold_steps: int = 10

    def __post_init__(self):
        if not self.seconds > 0:
            raise InputError("planner.seconds", self.seconds, "more than 0")
        if self.hold_steps < 1:
            raise InputError("planner.hold_steps", self.hold_steps, "at least 1")


@dataclasses.dataclass(frozen=True)
class PlannerAnswer:
    """What is to be done. Exactly one of `state` and `failure` is None."""

    state: State | None
    caption: str | None
    """The event to perform now: the plan's first, or the current one that Continue goes on with. None after another
    decision, and after a failure."""
    failure: Failure | None = None
    hold: ActionChunk | None = None
    """After a failure: the pose that the robot is in, repeated."""


class GuardedPlanner:
    """Asks a planner in a thread of its own, and answers in time whatever the planner does.

    A planner that hangs cannot be stopped. It keeps its thread, and until it has come back every further question is
    answered with the failure "planner busy"; what it then says comes too late and is dropped.
    """

    def __init__(self, planner: Planner, settings: PlannerSettings, control_hz: float):
        self._planner, self._settings, self._control_hz = planner, settings, control_hz
        self._thread: threading.Thread | None = None

    def ask(self, request: Request) -> PlannerAnswer:
        """The planner's answer, or a named failure with a hold; raises nothing on the planner's account."""
        if self._thread is not None and self._thread.is_alive():
            return self._failed(request, Failure(PLANNER_BUSY, "still at an earlier request"))
        answers: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._call, args=(request, answers), daemon=True)
        self._thread.start()
        try:
            answer, error = answers.get(timeout=self._settings.seconds)
        except queue.Empty:
            return self._failed(request, Failure(PLANNER_TIMEOUT, f"no answer in {self._settings.seconds:g} s"))
        self._thread.join()
        if error is not None:
            return self._failed(request, Failure(PLANNER_ERROR, f"{type(error).__name__}: {error}"))
        return self._judge(request, answer)

    def _call(self, request: Request, answers: queue.SimpleQueue) -> None:
        try:
            answers.put((self._planner(request), None))
        except BaseException as error:  # the thread's end; a planner's SystemExit must not pass for silence
            answers.put((None, error))

    def _judge(self, request: Request, answer: object) -> PlannerAnswer:
        if not isinstance(answer, str):
            return self._failed(request, Failure(PLANNER_SCHEMA, f"found {type(answer).__name__}, expected a text"))
        try:
            state = parse(answer)
        except (InputError, RecursionError) as error:  # the latter from JSON nested without end
            return self._failed(request, Failure(PLANNER_SCHEMA, str(error)))
        caption = caption_of(state)
        if caption is not None:
            if self._settings.captions is not None and caption not in self._settings.captions:
                return self._failed(request, Failure(UNKNOWN_CAPTION, repr(caption)))
            if text.token_count(caption) > self._settings.text_length:
                return self._failed(request, Failure(LONG_CAPTION, f"{text.token_count(caption)} tokens"))
        return PlannerAnswer(state, caption)

    def _failed(self, request: Request, failure: Failure) -> PlannerAnswer:
        state, mask = request.observation.state, request.observation.dof_mask
        return PlannerAnswer(None, None, failure, hold(state, mask, self._settings.hold_steps, self._control_hz))


def caption_of(state: State) -> str | None:
    """The event that a state says to perform now, or None."""
    if isinstance(state, InitialPlan):
        return state.plan[0]
    return state.current.caption if state.decision == "Continue" else None
