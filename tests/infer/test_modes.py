"""The table of inference modes: a mode that someone else brings is one file, this one, and one row."""

import jax
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.controllers import compared_controllers
from wallwm_jax.infer.driver import Driver, PolicySettings, Prediction
from wallwm_jax.infer.modes import MODES, InferenceMode, mode_of
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import hold
from wallwm_jax.infer.text_sources import INSTRUCTION


class StillDriver:
    """Holds the pose for three steps, whatever it is told."""

    sources, missing, watches, ends_events, steps, warm_up_steps = (INSTRUCTION,), {}, 0, False, 3, (3,)
    timer = None

    def __init__(self, run, embodiment):
        self.origin, self.embodiment = {"run": str(run.workdir)}, embodiment

    def history(self):
        return None

    def predict(self, requests, histories, source, *, steps, key, dream=False):
        chunks = [hold(request.observation.state, request.observation.dof_mask, 3, 20.0) for request in requests]
        return [Prediction(chunk, 3) for chunk in chunks]


@pytest.fixture
def still(embodiment):
    """The row."""
    return InferenceMode(
        "still", lambda run, settings: StillDriver(run, embodiment), INSTRUCTION, {INSTRUCTION: "still"}
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "video" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_a_mode_from_outside_is_served_like_any_other(still, folder, observe):
    """Chosen by name from the table that is passed; the table of the package is as it was."""
    policy = Policy.load(folder, mode="still", modes=(*MODES, still))
    assert isinstance(policy.driver, Driver) and policy.source == INSTRUCTION
    result = policy.infer(observe(0), "stay")
    np.testing.assert_array_equal(result.unified.actions, np.tile(observe(0).state, (3, 1)))
    assert policy.describe()["mode"] == "still" and policy.describe()["checkpoint"] == {"run": str(folder)}
    with pytest.raises(InputError, match=r"mode: found 'still', expected one of \['event', 'unified'\]"):
        Policy.load(folder, mode="still")


def test_a_mode_from_outside_is_driven_in_the_closed_loop(still, folder, observe, embodiment):
    """Its row says which sources are compared; nothing else has to know it."""
    policy = Policy.load(folder, mode="still", modes=(still,), settings=PolicySettings(checks=False))
    (controller,) = compared_controllers(still, policy, jax.random.key(0), replan_every=2)
    assert (controller.name, controller.oracle, controller.ends_events) == ("still", False, False)
    (plan,) = controller.act([Request(observe(0), "stay")])
    np.testing.assert_array_equal(plan.commands, np.tile(embodiment.lower(observe(0).state[None]), (3, 1)))
    assert plan.announced is None and not plan.event_done


def test_unknown_modes_are_refused_with_the_table():
    """Under the name of the option that was wrong."""
    with pytest.raises(InputError, match=r"--mode: found 'dream', expected one of \['event', 'unified'\]"):
        mode_of("dream", field="--mode")
    assert [mode.name for mode in MODES] == ["event", "unified"]
