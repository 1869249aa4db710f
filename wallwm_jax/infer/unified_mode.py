"""Unified mode: fixed chunks of H_a control steps from history, observation and text (WALL-WM §7, eq. 11).

The text has interchangeable sources (`infer.text_sources`), which can be switched in mid-rollout: a prediction takes a
`TextCondition` of one fixed length and knows nothing of where it comes from.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.model import Model
from wallwm_jax.core.types import ActionChunk
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.statistics import Statistics
from wallwm_jax.infer.conditions import ChunkSettings, chunk_batch
from wallwm_jax.infer.denoise import SolverSettings, TextCondition
from wallwm_jax.infer.history import History
from wallwm_jax.infer.observations import blank_observation, check_state
from wallwm_jax.infer.programs import Programs, Text, film, without_text
from wallwm_jax.infer.safety import EMPTY_TEXT, NON_FINITE_VIDEO, Failure, Limits, SafetySettings, guard
from wallwm_jax.infer.stage_timer import StageTimer


@dataclasses.dataclass(frozen=True)
class UnifiedModeSettings:
    """`rows` robots are served together (fewer are padded, so that there is one program for all)."""

    rows: int = 1
    window: ChunkSettings = dataclasses.field(default_factory=ChunkSettings)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)
    safety: SafetySettings = dataclasses.field(default_factory=SafetySettings)


@dataclasses.dataclass(frozen=True)
class ChunkPrediction:
    """One chunk of one robot."""

    actions: ActionChunk
    """H_a absolute unified poses (world frame), one a control step: finite and within limits, or holding still."""
    frames: UInt8[np.ndarray, "T V H W 3"] | None
    """The current observation and dreamt frames, one every `frame_stride` control steps; None if no dream was asked
    for, or there is a failure."""
    failure: Failure | None
    """Why `actions` holds still instead of what the network said."""
    clipped: int
    """Numbers of `actions` that were beyond the limits."""


class UnifiedMode:
    """Predicts chunks with programs compiled once.

    A chunk depends on its own robot's history, text, key and place in the call. With no history (M = 0) it is event
    mode's prediction of an event of H_a steps.
    """

    def __init__(
        self,
        model: Model,
        parameters: Any,
        embodiment: Embodiment,
        statistics: Statistics,
        settings: UnifiedModeSettings,
        timer: StageTimer | None = None,
    ):
        self.settings, self.embodiment, self._statistics = settings, embodiment, statistics
        self.programs = Programs(model, parameters, settings.rows, settings.window, settings.solver, timer)
        self._limits = Limits.of(statistics, settings.safety)

    @property
    def compiled(self) -> tuple[tuple[str, int], ...]:
        """(program, latent slots) of every program compiled so far, in order; 0 where these do not matter."""
        return self.programs.compiled

    def history(self) -> History:
        """An empty history of the length that this mode reads, for one robot."""
        return History(self.settings.window.history_latents, self.settings.window.frame_stride)

    def encode(self, captions: Sequence[str]) -> TextCondition:
        """Captions as `act` would encode them: what text sources are built from."""
        return self.programs.condition(captions, len(captions))

    def warm_up(self, views: tuple[int, int, int, int], dream: bool = False) -> None:
        """Compiles every program that `act` runs on images of shape `views` [V, H, W, 3], before a robot waits."""
        history = self.history()
        history.push(blank_observation(self.embodiment, views[1:3]))
        self.act([history], [""], key=jax.random.key(0), dream=dream)

    def act(
        self, histories: Sequence[History], text: Text, *, key: PRNGKeyArray, dream: bool = False
    ) -> list[ChunkPrediction]:
        """One chunk for each robot, from what it has seen so far and what it is told; told nothing, it holds still.

        Args:
            histories: one a robot; the observation pushed last is the anchor that actions are relative to.
            text: one caption a robot, or a `TextCondition` with a row for each.
            key: all randomness; robot i uses the i-th stream of it, whatever the text.
            dream: whether to finish the video; without it only the forward passes that the actions need are run.

        Raises:
            InputError: texts and histories do not match, a text is too long, a history is empty, of other images or
                of a state that is not finite or has a degenerate rotation.
        """
        shapes = {history.shape for history in histories}
        if len(shapes) != 1:
            raise InputError("histories", f"images of {sorted(shapes)}", "one or more of one shape [V, H, W, 3]")
        for place, history in enumerate(histories):
            check_state(f"history {place}: state", history.state, history.dof_mask)
        given, predictions, rows = self.programs.condition(text, len(histories)), [], self.settings.rows
        untold = frozenset(without_text(text))
        for first in range(0, len(histories), rows):
            chosen = range(first, min(first + rows, len(histories)))
            predictions += self._act_rows(histories, given, chosen, untold, key, dream)
        return predictions

    def _act_rows(self, histories, text, chosen, untold, key, dream) -> list[ChunkPrediction]:
        window = self.settings.window
        bucket, members = window.buckets[-1], [histories[i] for i in chosen]
        batch = chunk_batch(members, self.settings.rows, self.embodiment, self._statistics, window)
        given, _ = self.programs.observe(batch, text, chosen)
        noise = self.programs.noise(key, chosen, given, bucket)
        actions, frames, finite = self.programs.denoise(bucket, batch, given, noise, dream)
        predictions = []
        for row, (index, history) in enumerate(zip(chosen, members, strict=True)):
            known = None if finite[row] else Failure(NON_FINITE_VIDEO)
            known = Failure(EMPTY_TEXT) if index in untold else known
            chunk, failure, clipped = self._chunk(actions[row], history, known)
            shown = None if frames is None or failure else film(frames[row], window.observed_slots)
            predictions.append(ChunkPrediction(chunk, shown, failure, clipped))
        return predictions

    def _chunk(
        self, normalised: Float[np.ndarray, "A 26"], history: History, known: Failure | None
    ) -> tuple[ActionChunk, Failure | None, int]:
        absolute = self.embodiment.decode(normalised, history.state, self._statistics)
        return guard(absolute, history.state, history.dof_mask, self._limits, self.embodiment.control_hz, known)
