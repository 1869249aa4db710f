"""The driver of event mode: one whole event per prediction (WALL-WM §7)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.infer.driver import PolicySettings, Prediction, waiting
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings
from wallwm_jax.infer.history import History
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.infer.reasoning import NextEvent, Reasoning
from wallwm_jax.infer.reasoning_sources import is_finished, text_sources, too_long, with_next_events, words_of
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.stage_timer import StageTimer
from wallwm_jax.infer.text_sources import CAPTION, PLANNER


class EventDriver:
    """Adapts `EventMode` to the `Driver` interface; `reasoning` adds the text sources "latents" and "planner"."""

    watches, ends_events = 0, True

    def __init__(
        self,
        mode: EventMode,
        reasoning: Reasoning | None = None,
        *,
        missing: Mapping[str, str] | None = None,
        origin: Mapping[str, Any] | None = None,
        timer: StageTimer | None = None,
    ):
        self.mode, self.timer, self.missing, self.origin = mode, timer, missing or {}, origin or {}
        self.sources = text_sources(mode.encode, reasoning)
        self._reasoning = reasoning

    @property
    def embodiment(self) -> Embodiment:
        """The robot's."""
        return self.mode.embodiment

    @property
    def steps(self) -> int:
        """Control steps of the longest event."""
        return self.mode.settings.window.max_steps

    @property
    def warm_up_steps(self) -> list[int]:
        """The longest event of every bucket."""
        window = self.mode.settings.window
        return [window.actions(bucket) for bucket in window.buckets]

    def history(self) -> None:
        """Event mode reads the present observation alone."""
        return None

    def predict(
        self,
        requests: Sequence[Request],
        histories: Sequence[History | None],
        source: str,
        *,
        steps: Sequence[int | None],
        key: PRNGKeyArray,
        dream: bool = False,
    ) -> list[Prediction]:
        """As `Driver.predict`, except that robots whose task is done are skipped in the numbering of noise streams."""
        length = self.mode.settings.window.text_length
        asked, events = with_next_events(source, self._reasoning, requests, length)
        found = [waiting(request, self.embodiment.control_hz) for request in asked]
        busy = [place for place, event in enumerate(events) if not is_finished(source, event)]
        if not busy:
            return found
        text = self.sources[source].condition([asked[place] for place in busy])
        asked_for = [(steps[place], self._expected(source, events[place])) for place in busy]
        counts = [wanted if wanted is not None else expected for wanted, expected in asked_for]
        observations = [asked[place].observation for place in busy]
        predictions = self.mode.predict(observations, text, counts, key=key, dream=dream)
        for place, said in zip(busy, predictions, strict=True):
            caption = asked[place].caption if source in (CAPTION, PLANNER) else words_of(events[place])
            failure = too_long(source, events[place], length) or said.failure
            outcome = (said.frames, failure, said.clipped, caption)
            over = None if failure else caption
            found[place] = Prediction(said.actions, said.steps, *outcome, ends_event=True, over=over)
        return found

    def _expected(self, source: str, event: NextEvent | None) -> int | None:
        """Control steps that the planner expects; None leaves them to the duration head."""
        if source != PLANNER or not np.isfinite(event.steps):
            return None
        return int(np.clip(round(event.steps), 1, self.steps))


def load_event_driver(run: TrainedRun, settings: PolicySettings) -> EventDriver:
    """Event mode on stage adaptation if it is finished, else on stage action."""
    timer, world = settings.timer(), run.world(("adaptation", "action"), "event")
    config = run.config_of(world.checkpoint)
    chosen = dataclasses.replace(EventModeSettings.from_config(config), rows=settings.rows)
    mode = EventMode(world.model, world.checkpoint.averaged, world.embodiment, world.statistics, chosen, timer)
    reasoning, missing = run.reasoning(settings.reasoning_rows or settings.rows, timer)
    return EventDriver(mode, reasoning, missing=missing, origin=world.origin, timer=timer)
