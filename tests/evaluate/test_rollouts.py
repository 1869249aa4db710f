"""Rollouts: a mode is shown what was really seen when a piece begins, and told what was going on."""

import itertools

import jax
import numpy as np
import pytest

from tests.evaluate.toy_dataset import PLAN
from wallwm_jax.core.types import ActionChunk
from wallwm_jax.evaluate.events import arm_path
from wallwm_jax.evaluate.rollouts import event_rollout, fullest_episode, unified_rollout
from wallwm_jax.infer.conditions import ChunkSettings
from wallwm_jax.infer.denoise import TextCondition
from wallwm_jax.infer.driver import PolicySettings
from wallwm_jax.infer.event_driver import EventDriver
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings, EventPrediction
from wallwm_jax.infer.history import History
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.safety import Failure
from wallwm_jax.infer.text_sources import CAPTION
from wallwm_jax.infer.unified_driver import UnifiedDriver
from wallwm_jax.infer.unified_mode import ChunkPrediction, UnifiedMode, UnifiedModeSettings

KEY, STARTS = jax.random.key(0), np.cumsum([0, *(steps for _, _, steps in PLAN)])


def _chunk(curated, episode, start, steps):
    """What was really commanded, one centimetre too high."""
    actions = curated.action(episode)[start : start + steps].copy()
    actions[:, 12] += 0.01
    return ActionChunk(actions, curated.embodiment.dof_mask, np.ones(len(actions), bool), 20.0)


class Oracle:
    """A mode on the recorded actions; remembers what it was shown. It refuses to act in the second piece."""

    def __init__(self, curated, episode):
        self.curated, self.episode, self.asked = curated, episode, []
        self.embodiment = curated.embodiment

    def encode(self, captions):
        self.told = list(captions)
        mask = np.ones((len(captions), 1, 4), bool)
        return TextCondition(np.zeros((*mask.shape, 2), np.float32), mask, mask[..., 0])

    def _answer(self, kind, seen, state, text):
        (start,) = np.flatnonzero((self.curated.frames(self.episode) == seen).all((1, 2, 3, 4)))
        np.testing.assert_array_equal(state, self.curated.state(self.episode)[start])
        self.asked.append((int(start), text))
        frames = None if len(self.asked) == 2 else np.full((5, *seen.shape), len(self.asked), np.uint8)
        failure = Failure("no") if frames is None else None
        if kind is ChunkPrediction:
            return ChunkPrediction(_chunk(self.curated, self.episode, start, 8), frames, failure, 0)
        # One control step too few.
        steps = dict(zip(STARTS, (steps for *_, steps in PLAN), strict=False))[start] - 1
        return EventPrediction(_chunk(self.curated, self.episode, start, steps), steps, 3, frames, failure)


class EventOracle(Oracle, EventMode):
    settings = EventModeSettings()

    def predict(self, observations, text, steps, *, key, dream):
        assert dream and steps == [None] * len(observations)
        given = zip(observations, self.told, strict=True)
        return [self._answer(EventPrediction, seen.views, seen.state, text) for seen, text in given]


class UnifiedOracle(Oracle, UnifiedMode):
    settings = UnifiedModeSettings(window=ChunkSettings(history_latents=1, future_latents=1))

    def history(self):
        return History(1, 2)

    def act(self, histories, texts, *, key, dream):
        frames = np.zeros((2, 4, *histories[0].shape), np.uint8)
        histories[0].write(frames)
        return [self._answer(ChunkPrediction, frames[-1, -1], histories[0].state, self.told[0])]


def serve(driver):
    return Policy(driver, CAPTION, PolicySettings(timings=False))


@pytest.fixture
def episode(curated):
    return fullest_episode(curated, "heldout")


def test_event_mode_goes_from_event_to_event(curated, episode):
    """Every event once, in order, from its own first picture; errors are those at the events' ends."""
    mode = EventOracle(curated, episode)
    rollout = event_rollout(serve(EventDriver(mode)), curated, episode, KEY)
    assert mode.asked == [(int(start), f"{verb} {name}") for start, (verb, name, _) in zip(STARTS, PLAN, strict=False)]
    assert [(piece.start, piece.end) for piece in rollout.pieces] == list(itertools.pairwise(STARTS))
    truth = arm_path(curated.action(episode))
    ends = [truth[end - 2] + [0, 0, 0.01, 0] - truth[end - 1] for end in STARTS[1:]]
    np.testing.assert_allclose(rollout.errors, 1000 * np.linalg.norm(np.array(ends)[:, :3], axis=1), rtol=1e-4)


def test_unified_mode_goes_from_chunk_to_chunk(curated, episode):
    """Every eighth step, told the event under way; the last chunk is cut where the episode ends."""
    mode = UnifiedOracle(curated, episode)
    rollout = unified_rollout(serve(UnifiedDriver(mode)), curated, episode, KEY)
    last = curated.length(episode) - 1
    assert [start for start, _ in mode.asked] == list(range(0, last, 8))
    for start, text in mode.asked:
        verb, name, _ = PLAN[int(np.searchsorted(STARTS, start, side="right")) - 1]
        assert text == f"{verb} {name}"
    assert rollout.pieces[-1].end == last and len(rollout.pieces[-1].path) == last - rollout.pieces[-1].start
    np.testing.assert_allclose(rollout.errors, 10.0, rtol=1e-4)


def test_a_refusal_is_told_and_shows_what_was_seen_last(curated, episode):
    """Instead of a dream stands the picture before; frames are the recorded ones at the ends."""
    rollout = unified_rollout(serve(UnifiedDriver(UnifiedOracle(curated, episode))), curated, episode, KEY)
    assert [piece.failed for piece in rollout.pieces] == [False, True] + [False] * (len(rollout.pieces) - 2)
    np.testing.assert_array_equal(rollout.dreams[1], curated.frames(episode)[8])
    assert (rollout.dreams[0] == 1).all() and rollout.instruction == "tidy up"
    for piece, frame in zip(rollout.pieces, rollout.frames, strict=True):
        np.testing.assert_array_equal(frame, curated.frames(episode)[piece.end])
