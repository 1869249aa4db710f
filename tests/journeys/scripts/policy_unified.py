"""A trained policy, a chunk at a time; who says what to do changes in mid-rollout."""

import sys

import numpy as np

from wallwm_jax.infer.policy import Policy

policy = Policy.load(sys.argv[1], mode="unified", text_source="instruction")
picture, state = np.full((16, 16, 3), 128, np.uint8), {"x": 0.1, "y": 0.0, "z": 0.2, "gripper": 1.0}
robot = {"cameras": {"front": picture, "wrist": picture}, "state": state}
results = [policy.infer(robot, "tidy the table")]
results += [policy.infer(robot, text_source="caption", caption="lift the puck")]
results += [policy.infer(robot, text_source=name) for name in ("latents", "planner", "instruction")]
assert [result.source for result in results] == ["instruction", "caption", "latents", "planner", "instruction"]
assert all(np.isfinite(result.actions).all() for result in results)
