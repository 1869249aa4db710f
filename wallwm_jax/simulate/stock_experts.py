"""Meta-World's 50 scripted experts, recorded for breadth in the same format as the tabletop.

They say nothing about their subtasks, so events are cut where the signals show a border: where the gripper's command
flips and where the arm comes to rest. Every such event carries the task's caption; its verb is "segment".
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Event
from wallwm_jax.simulate.cameras import Camera, CameraRig, import_mujoco, to_unified
from wallwm_jax.simulate.environment import SIMULATOR_STEPS, TIP, arm_state
from wallwm_jax.simulate.recording import EpisodeFailed, Recording

ACTION_LIMITS = (0.5, 1.0)
"""The experts' motion is clipped to the first, so that their events last long enough to be of use; a few of them rely
on speed, so that a task that fails is tried again with the second."""
MAXIMUM_FRAMES, FRAMES_AFTER_SUCCESS = 120, 4
SHORTEST_EVENT, LONGEST_EVENT = 6, 40
REST_SPEED = 0.0015
"""Metres in one control step below which the arm is at rest."""
CAMERAS = {"front": Camera("corner2", turned=True), "topview": Camera("topview"), "wrist": Camera("gripperPOV")}

CAPTIONS = {
    "assembly": "pick up the nut and put it on the peg",
    "basketball": "put the ball in the basket",
    "bin-picking": "move the puck from one bin to the other",
    "box-close": "put the lid on the box",
    "button-press-topdown": "press the button from above",
    "button-press-topdown-wall": "press the button behind the wall from above",
    "button-press": "press the button",
    "button-press-wall": "press the button behind the wall",
    "coffee-button": "press the coffee machine's button",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "take the nut off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "hand-insert": "put the gripper into the hole",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-open": "turn the faucet on",
    "faucet-close": "turn the faucet off",
    "hammer": "hammer the nail into the wall",
    "handle-press-side": "press the handle down sideways",
    "handle-press": "press the handle down",
    "handle-pull-side": "pull the handle up sideways",
    "handle-pull": "pull the handle up",
    "lever-pull": "pull the lever up",
    "peg-insert-side": "put the peg into the hole in the side",
    "pick-place-wall": "pick up the puck and carry it over the wall",
    "pick-out-of-hole": "take the puck out of the hole",
    "reach": "reach the goal",
    "push-back": "push the block back",
    "push": "push the puck to the goal",
    "pick-place": "pick up the puck and bring it to the goal",
    "plate-slide": "slide the plate into the goal",
    "plate-slide-side": "slide the plate sideways into the goal",
    "plate-slide-back": "slide the plate back",
    "plate-slide-back-side": "slide the plate back sideways",
    "peg-unplug-side": "pull the peg out of the side",
    "soccer": "push the ball into the goal",
    "stick-push": "push the thermos with the stick",
    "stick-pull": "pull the thermos with the stick",
    "push-wall": "push the puck round the wall",
    "reach-wall": "reach the goal behind the wall",
    "shelf-place": "put the block on the shelf",
    "sweep-into": "sweep the block into the hole",
    "sweep": "sweep the block off the table",
    "window-open": "open the window",
    "window-close": "close the window",
}
"""Task (Meta-World's name without "-v3") -> caption."""


def check_task(task: str) -> None:
    """Raises InputError if Meta-World has no such task."""
    if task not in CAPTIONS:
        raise InputError("stock task", task, f"one of {sorted(CAPTIONS)}")


def record_stock_episode(task: str, seed: int, size: int = 96, render: bool = True) -> Recording:
    """Lets Meta-World's expert do a task, from a layout drawn by the seed, until shortly after its first success.

    Raises:
        EpisodeFailed: the expert did not succeed in time.
    """
    import_mujoco()
    from metaworld import MT1
    from metaworld.policies import ENV_POLICY_MAP

    check_task(task)
    benchmark = MT1(f"{task}-v3", seed=seed)
    for limit in ACTION_LIMITS:
        simulator = benchmark.train_classes[f"{task}-v3"]()
        simulator.set_task(benchmark.train_tasks[seed % len(benchmark.train_tasks)])
        rig = CameraRig(simulator.model, CAMERAS, size)
        try:
            return _run(task, seed, simulator, ENV_POLICY_MAP[f"{task}-v3"](), rig, render, limit)
        except EpisodeFailed as failure:
            reason = failure
        finally:
            rig.close()
    raise reason


def _run(task: str, seed: int, simulator, policy, rig: CameraRig, render: bool, limit: float) -> Recording:
    observation, _ = simulator.reset()
    rows, remaining = [], None
    for _ in range(MAXIMUM_FRAMES):
        images = rig.render(simulator.data) if render else np.zeros((0, 0, 0, 3), np.uint8)
        before = (arm_state(simulator.data), *rig.calibration(simulator.data), images)
        effort, success = 0.0, False
        for _ in range(SIMULATOR_STEPS):
            action = np.clip(policy.get_action(observation), -1.0, 1.0)
            action[:3] = np.clip(action[:3], -limit, limit)
            observation, _, _, _, information = simulator.step(action.astype(np.float32))
            effort, success = float(action[3]), success or bool(information["success"])
        command = np.append(to_unified(simulator.data.mocap_pos[0] + TIP), (1.0 - effort) / 2.0)
        rows.append((before[0], command.astype(np.float32), *before[1:]))
        if success and remaining is None:
            remaining = FRAMES_AFTER_SUCCESS
        elif remaining is not None:
            remaining -= 1
            if remaining <= 0:
                break
    if remaining is None:
        raise EpisodeFailed(f"seed {seed}, {task}: no success in {MAXIMUM_FRAMES} frames")
    state, action, intrinsics, extrinsics, frames = (np.stack(column) for column in zip(*rows, strict=True))
    borders = segment_borders(state, action)
    events = tuple(Event(start, end, CAPTIONS[task], "segment", task) for start, end in itertools.pairwise(borders))
    return Recording(
        seed,
        f"stock/{task}",
        CAPTIONS[task],
        tuple(CAMERAS),
        state,
        action,
        frames,
        intrinsics.astype(np.float32),
        extrinsics.astype(np.float32),
        events,
        (False,) * len(events),
    )


def segment_borders(state: Float[np.ndarray, "T 4"], action: Float[np.ndarray, "T 4"]) -> list[int]:
    """Frames 0 = b_0 < b_1 < ... < b_n = T that cut an episode into events.

    A border lies where the gripper's command crosses one half and at the end of a rest; segments shorter than
    SHORTEST_EVENT are joined to the one before them, longer ones than LONGEST_EVENT are cut evenly.
    """
    length = len(state)
    flips = np.flatnonzero(np.diff((action[:, 3] > 0.5).astype(int))) + 1
    resting = np.append(np.linalg.norm(np.diff(state[:, :3], axis=0), axis=1) < REST_SPEED, False)
    starts = np.flatnonzero(resting[:-1] & ~resting[1:]) + 1
    borders = [0]
    for border in sorted({*flips.tolist(), *starts.tolist()}):
        if border - borders[-1] >= SHORTEST_EVENT and length - border >= SHORTEST_EVENT:
            borders.append(int(border))
    return _cut_long([*borders, length])


def _cut_long(borders: Sequence[int]) -> list[int]:
    result = [borders[0]]
    for start, end in itertools.pairwise(borders):
        pieces = -(-(end - start) // LONGEST_EVENT)
        result += [start + (end - start) * piece // pieces for piece in range(1, pieces + 1)]
    return result
