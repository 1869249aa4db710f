"""Controllers: event mode's book-keeping on a mode whose plans are known, and the expert in the real simulator."""

import os
import pathlib

import jax
import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import ActionChunk, Observation
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.evaluate.closed_loop import run_cell
from wallwm_jax.evaluate.controllers import ExpertController, PolicyController
from wallwm_jax.evaluate.protocol import ClosedLoopProtocol
from wallwm_jax.infer.denoise import TextCondition
from wallwm_jax.infer.driver import PolicySettings
from wallwm_jax.infer.event_driver import EventDriver
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings, EventPrediction
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.text_sources import CAPTION

NAMES = {name: f"right_arm.{name}" for name in ("x", "y", "z", "gripper")}


class Counter(EventMode):
    """Every new event lasts 7 steps; step k of a prediction of n steps commands x = k of n."""

    embodiment = Embodiment("toy", 20.0, ("front",), "observation.state", "action", NAMES, NAMES)
    settings = EventModeSettings()

    def __init__(self):
        self.asked, self.keys = [], []

    def encode(self, captions):
        mask = np.ones((len(captions), 1, 4), bool)
        return TextCondition(np.zeros((*mask.shape, 2), np.float32), mask, mask[..., 0])

    def predict(self, observations, text, steps, *, key, dream):
        assert not dream
        self.asked.append(list(steps))
        self.keys.append(jax.random.key_data(key).tolist())
        predictions = []
        for count in (7 if count is None else count for count in steps):
            actions = np.zeros((count, 26), np.float32)
            actions[:, 10] = np.arange(count) + 1
            chunk = ActionChunk(actions, np.ones(26, bool), np.ones(count, bool), 20.0)
            predictions.append(EventPrediction(chunk, count, 2, None))
        return predictions


def controller_of(mode, replan_every=None):
    """Event mode on the oracle's captions."""
    policy = Policy(EventDriver(mode), CAPTION, PolicySettings(timings=False))
    return PolicyController(policy, CAPTION, "event mode", jax.random.key(0), replan_every=replan_every)


def request(scene, caption, elapsed):
    observation = Observation(np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, bool), np.zeros(26), np.ones(26, bool))
    return Request(observation, "do it", (), caption, elapsed=elapsed, scene=scene)


def test_an_event_is_executed_whole_unless_told_otherwise():
    """Open loop, as in the paper: all 7 commands, after which the event is over."""
    mode = Counter()
    (plan,) = controller_of(mode).act([request(0, "lift", 0)])
    assert plan.commands.shape == (7, 4) and plan.event_done and plan.announced == "lift"


def test_an_event_is_observed_again_and_its_rest_predicted():
    """7 steps in threes: 3, 3 and 1 commands, asked for as a new event, 4 and 1 steps, each time with other noise;
    the next event and the next episode begin anew, and so does another scene meanwhile."""
    mode = Counter()
    controller = controller_of(mode, replan_every=3)
    first = controller.act([request(0, "lift", 9)])
    second = controller.act([request(0, "lift", 12), request(1, "lift", 3)])
    third = controller.act([request(0, "lift", 15)])
    assert mode.asked == [[None], [4, None], [1]] and len({str(key) for key in mode.keys}) == 3
    assert [len(plans[0].commands) for plans in (first, second, third)] == [3, 3, 1]
    assert [plans[0].event_done for plans in (first, second, third)] == [False, False, True]
    controller.act([request(0, "move", 16), request(1, "lift", 0)])
    assert mode.asked[-1] == [None, None]


def test_bad_settings_and_a_missing_oracle_are_refused():
    with pytest.raises(InputError, match="replan_every"):
        controller_of(Counter(), 0)
    with pytest.raises(InputError, match=r"scenes: found none in \[4\]"):
        controller_of(Counter()).act([request(4, None, 0)])


def test_the_expert_succeeds_in_every_cell():
    """The upper bound is 100: driver, judging, goals and limits at the robot's boundary agree with the recorder."""
    pytest.importorskip("mujoco")
    pytest.importorskip("metaworld")
    from wallwm_jax.simulate.environment import TabletopEnvironment

    protocol = ClosedLoopProtocol.load(pathlib.Path("data_specs/protocols/tabletop.json"))
    environment = TabletopEnvironment()
    try:
        environment.render()
    except Exception as error:
        pytest.skip(f"no off-screen rendering here: {error}")
    for cell in protocol.cells:
        result = run_cell(ExpertController([environment]), [environment], cell, protocol)
        assert result.progress == 100 and result.successes == 1 and result.refusals == {}
        assert result.completed == result.events == result.announced[0]
    environment.close()
