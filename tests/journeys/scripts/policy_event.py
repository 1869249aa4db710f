"""A trained policy on a robot's own dictionary: a whole event at a time."""

import sys

import numpy as np

from wallwm_jax.infer.policy import Policy

policy = Policy.load(sys.argv[1], mode="event")
picture = np.full((16, 16, 3), 128, np.uint8)
state = {"x": 0.1, "y": 0.0, "z": 0.2, "gripper": 1.0}
result = policy.infer({"front": picture, "wrist": picture, "state": state}, caption="lift the puck")
assert result.failure is None and result.actions.shape[1] == 4 and np.isfinite(result.actions).all()
assert set(result.command(0)) == {"x", "y", "z", "gripper"} and result.seconds["total"] > 0
