"""The driver of unified mode: one fixed-length chunk per prediction, from a history (WALL-WM §7)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import ActionChunk
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.infer.conditions import ChunkSettings
from wallwm_jax.infer.driver import PolicySettings, Prediction, waiting
from wallwm_jax.infer.event_mode import EventModeSettings
from wallwm_jax.infer.history import History
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.infer.reasoning import Reasoning
from wallwm_jax.infer.reasoning_sources import is_finished, text_sources, too_long, with_next_events, words_of
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.stage_timer import StageTimer
from wallwm_jax.infer.text_sources import CAPTION, PLANNER
from wallwm_jax.infer.unified_mode import UnifiedMode, UnifiedModeSettings
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.world_action import loader_settings


class UnifiedDriver:
    """Adapts `UnifiedMode` to the `Driver` interface; `reasoning` adds the text sources "latents" and "planner".

    With these two, an event counts as complete after the chunk in which its remaining time is expected to run out.
    """

    ends_events = False

    def __init__(
        self,
        mode: UnifiedMode,
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
    def watches(self) -> int:
        """Control steps between two raw frames of a history: an observation in each fills it without a gap."""
        return self.mode.settings.window.frame_stride

    @property
    def steps(self) -> int:
        """H_a: control steps of a chunk."""
        return self.mode.settings.window.steps

    @property
    def warm_up_steps(self) -> list[int]:
        """There is one length."""
        return [self.steps]

    def history(self) -> History:
        """An empty history for one robot."""
        return self.mode.history()

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
        """As `Driver.predict`; fewer `steps` than a chunk has cut it, more are refused."""
        for count in steps:
            if count is not None and not 1 <= count <= self.steps:
                raise InputError("steps", count, f"1 to the {self.steps} control steps of a chunk")
        length = self.mode.settings.window.text_length
        asked, events = with_next_events(source, self._reasoning, requests, length)
        found = [waiting(request, self.embodiment.control_hz) for request in asked]
        busy = [place for place, event in enumerate(events) if not is_finished(source, event)]
        if not busy:
            return found
        text = self.sources[source].condition([asked[place] for place in busy])
        chunks = self.mode.act([histories[place] for place in busy], text, key=key, dream=dream)
        for place, said in zip(busy, chunks, strict=True):
            actions, event = _cut(said.actions, steps[place]), events[place]
            caption = asked[place].caption if source in (CAPTION, PLANNER) else words_of(event)
            failure = too_long(source, event, length) or said.failure
            ends = event is not None and event.steps <= self.steps and failure is None
            outcome = (said.frames, failure, said.clipped, caption)
            found[place] = Prediction(actions, len(actions.actions), *outcome, over=words_of(event) if ends else None)
        return found


def _cut(chunk: ActionChunk, steps: int | None) -> ActionChunk:
    """The first `steps` control steps of a chunk."""
    return chunk._replace(actions=chunk.actions[:steps], step_mask=np.asarray(chunk.step_mask)[:steps])


def load_unified_driver(run: TrainedRun, settings: PolicySettings) -> UnifiedDriver:
    """Unified mode on the finished stage adaptation."""
    timer, world = settings.timer(), run.world(("adaptation",), "unified")
    config = run.config_of(world.checkpoint)
    window = ChunkSettings.of(loader_settings(stage_of("adaptation"), config))
    chosen = UnifiedModeSettings(settings.rows, window, EventModeSettings.from_config(config).solver)
    mode = UnifiedMode(world.model, world.checkpoint.averaged, world.embodiment, world.statistics, chosen, timer)
    reasoning, missing = run.reasoning(settings.reasoning_rows or settings.rows, timer)
    return UnifiedDriver(mode, reasoning, missing=missing, origin=world.origin, timer=timer)
