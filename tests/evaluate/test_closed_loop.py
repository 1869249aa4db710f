"""The closed loop on an invented simulator and an event mode whose plans are known."""

import numpy as np
import pytest

from wallwm_jax.core.types import ActionChunk, Observation
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.evaluate.closed_loop import run_closed_loop
from wallwm_jax.infer.event_mode import EventMode, EventPrediction
from wallwm_jax.simulate import programs

NAMES = {name: f"right_arm.{name}" for name in ("x", "y", "z", "gripper")}


class Ladder:
    """A simulator of one number: each command adds its x; an event is done if it raised the number by at least 1."""

    def __init__(self):
        self.height, self.start, self.closed, self.scene = 0.0, 0.0, False, None

    def reset(self, seed, program):
        self.scene, self.program = seed, program

    def observe(self):
        state = np.zeros(26, np.float32)
        state[10] = self.height
        return Observation(np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, bool), state, np.ones(26, bool))

    def step(self, action):
        assert action.shape == (4,)
        self.height += float(action[0])

    def begin_event(self):
        self.start = self.height

    def event_completed(self, verb, object, target):
        return self.height - self.start >= 1.0

    def close(self):
        self.closed = True


class Climber(EventMode):
    """Three commands of 0.5 for any caption that does not speak of a button, of 0.1 for one that does."""

    embodiment = Embodiment("toy", 20.0, ("front",), "observation.state", "action", NAMES, NAMES)

    def __init__(self):
        self.seen = []

    def predict(self, observations, captions, *, key, dream):
        self.seen.append([float(observation.state[10]) for observation in observations])
        predictions = []
        for caption in captions:
            actions = np.zeros((3, 26))
            actions[:, 10] = 0.1 if "button" in caption else 0.5
            chunk = ActionChunk(actions, np.ones(26, bool), np.ones(3, bool), 20.0)
            predictions.append(EventPrediction(chunk, 3, 2, None))
        return predictions


@pytest.fixture
def played():
    mode, environments = Climber(), [Ladder(), Ladder()]
    episodes = [(7, programs.program("open_only")), (8, programs.program("close_then_press"))]
    return run_closed_loop(mode, environments, episodes), mode, environments


def test_events_are_judged_one_by_one(played):
    """Open (3 events) succeeds whole; the three events of press do not; each verb is counted."""
    result, _, _ = played
    assert (result.episodes, result.events, result.completed, result.episodes_completed) == (2, 9, 6, 1)
    assert result.by_verb["press"] == (0, 1) and result.by_verb["open"] == (1, 1) and result.by_verb["reach"] == (2, 3)


def test_each_event_starts_from_a_fresh_observation(played):
    """Observations follow what the earlier commands did; an episode that is over is no longer asked."""
    _, mode, environments = played
    assert mode.seen[:4] == [[0, 0], [1.5, 1.5], [3, 3], [4.5]]
    assert [environment.scene for environment in environments] == [7, 8]


def test_environments_are_closed_even_after_a_failure(played):
    """No GL context outlives the evaluation."""
    assert all(environment.closed for environment in played[2])
    broken = Ladder()
    broken.step = lambda action: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run_closed_loop(Climber(), [broken], [(0, programs.program("open_only"))])
    assert broken.closed
