"""Rollouts on recorded observations: a mode goes through a whole held-out episode, and is shown at every event or chunk
what was really seen then. That needs no simulator; errors do not add up as they do in one.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt8

from wallwm_jax.core.rng import substream
from wallwm_jax.core.types import Observation
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.evaluate.events import arm_path
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.text_sources import CAPTION


class Piece(NamedTuple):
    """One event or chunk, predicted from what was seen at control step `start`; `end` is the step after its last."""

    start: int
    end: int
    text: str
    path: Float[np.ndarray, "A 4"]
    """As `arm_path` gives it; shorter than the piece if the predicted event is."""
    failed: bool
    """Whether the mode refused to act; the path then holds still."""


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One episode as it was, and how a mode would have gone on from each of its moments."""

    mode: str
    instruction: str
    episode: int
    views: Sequence[str]
    control_hz: float
    truth: Float[np.ndarray, "T 4"]
    """Recorded commands, one a control step."""
    pieces: Sequence[Piece]
    frames: UInt8[np.ndarray, "N V H W 3"]
    """The recorded picture at the end of every piece."""
    dreams: UInt8[np.ndarray, "N V H W 3"]
    """The dreamt one; the last picture seen, if the mode refused."""

    @property
    def errors(self) -> Float[np.ndarray, "N"]:
        """Distance between recorded and predicted position at the end of every piece, millimetres."""
        ends = [piece.path[-1, :3] - self.truth[piece.end - 1, :3] for piece in self.pieces]
        return 1000.0 * np.linalg.norm(ends, axis=-1)


def fullest_episode(curated: CuratedDataset, split: str) -> int:
    """The episode of a split that has most events, the first of several."""
    episodes, counts = np.unique(curated.index.columns["episode"][curated.index.select(split)], return_counts=True)
    return int(episodes[counts.argmax()])


def event_rollout(policy: Policy, curated: CuratedDataset, episode: int, key: PRNGKeyArray) -> Rollout:
    """Event mode, event by event, told the recorded captions; how long an event lasts the duration head says."""
    columns = curated.index.columns
    rows = [row for row in curated.index.select() if columns["episode"][row] == episode]
    rows.sort(key=lambda row: columns["start"][row])
    seen = [_observation(curated, episode, int(columns["start"][row])) for row in rows]
    told = [str(columns["caption"][row]) for row in rows]
    requests = [
        Request(observation, caption=caption, scene=scene)
        for scene, (observation, caption) in enumerate(zip(seen, told, strict=True))
    ]
    predictions = policy.act(requests, source=CAPTION, key=key, dream=True)
    pieces = []
    for row, prediction in zip(rows, predictions, strict=True):
        start, end = int(columns["start"][row]), int(columns["end"][row])
        path = arm_path(prediction.unified.actions)[: end - start]
        pieces.append(Piece(start, end, str(columns["caption"][row]), path, prediction.failure is not None))
    dreams = [_last(prediction.frames, before) for prediction, before in zip(predictions, seen, strict=True)]
    return _rollout("event mode", curated, episode, pieces, dreams)


def unified_rollout(policy: Policy, curated: CuratedDataset, episode: int, key: PRNGKeyArray) -> Rollout:
    """Unified mode, chunk by chunk, shown all that was seen so far and told the event under way."""
    steps, last = policy.driver.steps, curated.length(episode) - 1
    pieces, dreams, seen = [], [], 0
    policy.reset()
    for start in range(0, last, steps):
        for step in range(seen, start):
            policy.observe(_observation(curated, episode, step), elapsed=1)
        seen, end, text = start + 1, min(start + steps, last), _text(curated, episode, start)
        shown = {"text_source": CAPTION, "caption": text, "elapsed": 1}
        prediction = policy.infer(_observation(curated, episode, start), **shown, key=substream(key, start), dream=True)
        path = arm_path(prediction.unified.actions)[: end - start]
        pieces.append(Piece(start, end, text, path, prediction.failure is not None))
        dreams.append(_last(prediction.frames, _observation(curated, episode, start)))
    return _rollout("unified mode", curated, episode, pieces, dreams)


def _rollout(
    mode: str, curated: CuratedDataset, episode: int, pieces: Sequence[Piece], dreams: Sequence[np.ndarray]
) -> Rollout:
    last = curated.length(episode) - 1
    frames = curated.frames(episode, [min(piece.end, last) for piece in pieces])
    hz, truth = curated.embodiment.control_hz, arm_path(curated.action(episode))
    task = curated.instruction(episode)
    return Rollout(mode, task, episode, curated.views, hz, truth, pieces, frames, np.stack(dreams))


def _text(curated: CuratedDataset, episode: int, step: int) -> str:
    """The caption of the event under way; between events the instruction."""
    row = curated.event_at(episode, step)
    return curated.instruction(episode) if row < 0 else str(curated.index.columns["caption"][row])


def _observation(curated: CuratedDataset, episode: int, step: int) -> Observation:
    frames, mask = curated.frames(episode, [step])[0], curated.embodiment.dof_mask
    return Observation(frames, np.ones(len(frames), bool), curated.state(episode)[step], mask)


def _last(dream: np.ndarray | None, before: Observation) -> UInt8[np.ndarray, "V H W 3"]:
    return before.views if dream is None else dream[-1]
