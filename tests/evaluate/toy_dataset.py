"""A small curated dataset of invented episodes, shared by the tests of this folder."""

import dataclasses
import pathlib

import numpy as np

from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.events import EventRow
from wallwm_jax.data.curation.index import EventIndex
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.statistics import Statistics

SIZE, VIEWS = 16, ("front", "wrist")
PLAN = (("reach", "puck", 12), ("grasp", "puck", 4), ("lift", "puck", 7), ("reach", "drawer", 20))
"""Verb, object and control steps of the events of each episode; the last is longer than the longest bucket (16)."""


def _episode(generator):
    """Straight lines to random places for reach; a closing gripper for grasp; up by 10 cm for lift."""
    state, pose = [], np.array([0.5, 0.0, 0.2, 1.0])
    for verb, _, steps in PLAN:
        goal = pose.copy()
        if verb == "reach":
            goal[:2] = generator.uniform(-0.3, 0.3, 2)
        goal[2] += 0.1 * (verb == "lift")
        goal[3] = 0.0 if verb == "grasp" else goal[3]
        state += [pose + (goal - pose) * step / steps for step in range(steps)]
        pose = goal
    return np.array(state), np.array([*state[1:], pose])


def write(root: pathlib.Path) -> CuratedDataset:
    """Six training episodes and two held-out ones, as curation leaves them on disk."""
    (root / "frames").mkdir()
    names = {name: f"right_arm.{name}" for name in ("x", "y", "z", "gripper")}
    embodiment = Embodiment("toy", 20.0, VIEWS, "observation.state", "action", names, names)
    generator, rows, states, actions = np.random.default_rng(0), [], [], []
    for episode in range(8):
        state, action = _episode(generator)
        start, split = 0, "train" if episode < 6 else "heldout"
        for verb, name, steps in PLAN:
            row = EventRow("toy", episode, start, start + steps, "action", f"{verb} {name}", verb, name, split=split)
            cluster = PLAN.index((verb, name, steps))
            rows.append(dataclasses.replace(row, vision_language_cluster=cluster, action_cluster=cluster % 2))
            start += steps
        task = EventRow("toy", episode, 0, start, "task", "tidy up", "", "", split=split)
        rows.append(task)
        frames = generator.integers(0, 255, (start, len(VIEWS), SIZE, SIZE, 3), dtype=np.uint8)
        np.save(root / "frames" / f"episode_{episode:06d}.npy", frames)
        states.append(embodiment.lift(state))
        actions.append(embodiment.lift(action))
    length = len(states[0])
    numbers = {
        "episodes": np.arange(8), "lengths": np.full(8, length), "camera_known": np.zeros(8, bool),
        "state": np.concatenate(states), "action": np.concatenate(actions),
        "intrinsics": np.tile(np.eye(3, dtype=np.float32), (8 * length, 2, 1, 1)),
        "extrinsics": np.tile(np.eye(4, dtype=np.float32), (8 * length, 2, 1, 1)),
        "borders": np.zeros((8, 2, 4), int),
    }  # fmt: skip
    ones, report = np.ones(26), {"image_shape": [SIZE, SIZE, 3]}
    statistics = Statistics(-ones, ones, -ones, ones)
    return CuratedDataset(root, EventIndex.from_rows(rows), statistics, embodiment, report, numbers)
