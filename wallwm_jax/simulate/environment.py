"""The tabletop as an environment at 20 Hz with absolute end-effector targets in the unified world frame.

Unified world frame: x forward, y left, z up, metres, origin at the arm's base; gripper 0 closed to 1 open. Meta-World's
own frame is x right, y forward, so x = its y and y = minus its x.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import RIGHT_ARM, UNIFIED_DIMENSION, Observation
from wallwm_jax.simulate import scene
from wallwm_jax.simulate.cameras import Camera, CameraRig, from_unified, import_mujoco, to_unified
from wallwm_jax.simulate.programs import Program, Target

SIMULATOR_STEPS = 4
"""Steps of 80 Hz in one control step."""
PHYSICS_STEPS = 5
"""MuJoCo steps of 2.5 ms in one step of 80 Hz."""
SPEED_LIMIT = 0.01
"""Metres that the target of the arm's weld moves at most in one step of 80 Hz, as in Meta-World."""
WORKSPACE = (np.array([-0.45, 0.36, 0.005]), np.array([0.45, 0.98, 0.45]))
"""Bounds of the end effector, Meta-World frame."""
TIP = np.array([0.0, 0.0, -0.04])
"""From the hand's origin to the end effector, Meta-World frame."""
_CLOSED_GAP, _OPEN_GAP = 0.03, 0.10
_HAND_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])


def arm_state(data) -> Float[np.ndarray, "4"]:
    """End-effector position (unified world frame, metres) and gripper opening (0..1) of Meta-World's Sawyer."""
    gap = np.linalg.norm(data.body("rightclaw").xpos - data.body("leftclaw").xpos)
    opening = np.clip((gap - _CLOSED_GAP) / (_OPEN_GAP - _CLOSED_GAP), 0.0, 1.0)
    return np.append(to_unified(data.site("endEffector").xpos), opening).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Where the arm and the objects are, unified world frame, metres. What an event is judged against."""

    arm: Float[np.ndarray, "3"]
    gripper: float
    drawer_opening: float
    button_depth: float
    objects: dict[str, np.ndarray]


class TabletopEnvironment:
    """One arm over one randomised table. `reset`, then `observe` and `step`; `close` frees the GL context.

    All randomness comes from the seed given to `reset`; the same seed and actions give the same states and pixels.
    """

    views = scene.VIEWS

    def __init__(self, size: int = 96):
        self._mujoco = import_mujoco()
        self.model = self._mujoco.MjModel.from_xml_string(scene.scene_xml())
        self._rig = CameraRig(self.model, {view: Camera(scene.CAMERAS[view]) for view in self.views}, size)
        self.model.eq_data[0] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]
        self.data = self._mujoco.MjData(self.model)
        self._drawer_address = self.model.joint("goal_slidey").qposadr[0]
        self._button_address = self.model.joint("btnbox_joint").qposadr[0]
        self._fingers = [self.model.joint(name).qposadr[0] for name in ("r_close", "l_close")]
        self._home = self._settle_home()
        self._event_start: Snapshot | None = None
        self.layout: scene.Layout | None = None

    def _settle_home(self) -> np.ndarray:
        """Joint angles with the hand above the table's middle: every reset starts from this one posture."""
        self._mujoco.mj_resetData(self.model, self.data)
        self._target, self._gripper = np.array([0.0, 0.55, 0.22]), 1.0
        self.data.mocap_pos[0] = self._target - TIP
        for _ in range(120):
            self._advance()
        return self.data.qpos.copy()

    def reset(self, seed: int, program: Program) -> None:
        """Places objects and arm as the seed says; the drawer starts as the program needs it.

        The arm has reached its start pose and stands still when this returns.
        """
        generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
        opening = generator.uniform(*program.initial_opening)
        layout = scene.sample_layout(generator, opening)
        self.layout, mujoco = layout, self._mujoco
        mujoco.mj_resetData(self.model, self.data)
        self.model.body("drawer").pos[:2] = layout.drawer
        self.model.body("box").pos[:2] = layout.button
        self.model.body("mat").pos[:2] = layout.mat
        self.data.qpos[:] = self._home
        self.data.qpos[self._drawer_address] = -layout.drawer_opening
        self.data.qpos[self._button_address] = 0.0
        for name, place in (("red_puck", layout.red_puck), ("blue_puck", layout.blue_puck)):
            address = self.model.joint(f"{name}_joint").qposadr[0]
            self.data.qpos[address : address + 7] = [*place, scene.PUCK_HALF_HEIGHT, 1, 0, 0, 0]
        self._target, self._gripper = layout.arm.copy(), layout.gripper
        self.data.mocap_pos[0] = self.data.body("hand").xpos
        mujoco.mj_forward(self.model, self.data)
        self.data.mocap_pos[0] = self.data.body("hand").xpos
        for _ in range(100):
            self._advance()
        mujoco.mj_forward(self.model, self.data)
        self.begin_event()

    def step(self, action: Float[np.ndarray, "n"]) -> None:
        """Moves for 1/20 s towards an absolute target.

        Args:
            action: x, y, z of the end effector (unified world frame, metres) and the gripper's opening (0..1). Rounded
                to float32, so that replaying a recording is exact.

        Raises:
            InputError: the action is not four finite numbers.
        """
        action = np.asarray(action, np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise InputError("action", action, "four finite numbers: x, y, z, gripper")
        values = action.astype(np.float64)
        self._target = np.clip(from_unified(values[:3]), *WORKSPACE)
        self._gripper = float(np.clip(values[3], 0.0, 1.0))
        for _ in range(SIMULATOR_STEPS):
            self._advance()
        self._mujoco.mj_forward(self.model, self.data)

    def _advance(self) -> None:
        """One step of 80 Hz: the weld's target moves at the speed limit, the fingers are servoed to their opening."""
        offset = self._target - TIP - self.data.mocap_pos[0]
        distance = np.linalg.norm(offset)
        self.data.mocap_pos[0] += offset * min(1.0, SPEED_LIMIT / max(distance, 1e-9))
        self.data.mocap_quat[0] = _HAND_QUATERNION
        right, left = self.data.qpos[self._fingers]
        closing = 1.0 - self._gripper
        self.data.ctrl[0] = np.clip(right + 25.0 * (0.04 * closing - right), -1.0, 1.0)
        self.data.ctrl[1] = np.clip(left + 25.0 * (-0.03 * closing - left), -1.0, 1.0)
        self._mujoco.mj_step(self.model, self.data, PHYSICS_STEPS)

    def state(self) -> Float[np.ndarray, "4"]:
        """End-effector position (unified world frame, metres) and gripper opening (0..1)."""
        return arm_state(self.data)

    def render(self) -> UInt8[np.ndarray, "V H W 3"]:
        """One image a view."""
        return self._rig.render(self.data)

    def cameras(self) -> tuple[Float[np.ndarray, "V 3 3"], Float[np.ndarray, "V 4 4"]]:
        """Intrinsics (pixels) and extrinsics (unified world frame to camera, OpenCV axes, metres) of every view now;
        the wrist's move with the arm."""
        return self._rig.calibration(self.data)

    def observe(self) -> Observation:
        """What a policy sees: images, and the state in the unified layout (the right arm is the actuated one)."""
        state, mask = np.zeros(UNIFIED_DIMENSION, np.float32), np.zeros(UNIFIED_DIMENSION, bool)
        index = [RIGHT_ARM.start, RIGHT_ARM.start + 1, RIGHT_ARM.start + 2, RIGHT_ARM.stop - 1]
        state[index], mask[index] = self.state(), True
        return Observation(self.render(), np.ones(len(self.views), bool), state, mask)

    def drawer_opening(self) -> float:
        """Metres that the drawer is open."""
        return float(-self.data.qpos[self._drawer_address])

    def snapshot(self) -> Snapshot:
        """The scene's true state now."""
        drawer = self.data.body("drawer_link").xpos
        button = self.data.body("button").xpos + np.array([0.0, -scene.BUTTON_OFFSET, 0.0])
        places = {
            "red puck": self.data.body("red_puck").xpos,
            "blue puck": self.data.body("blue_puck").xpos,
            "mat": self.data.body("mat").xpos,
            "drawer": np.array([drawer[0], drawer[1], scene.DRAWER_FLOOR]),
            "drawer handle": drawer + np.array([0.0, -0.17, 0.0]),
            "button": button,
        }
        state = self.state().astype(np.float64)
        return Snapshot(
            state[:3],
            float(state[3]),
            self.drawer_opening(),
            float(-self.data.qpos[self._button_address]),
            {name: to_unified(place) for name, place in places.items()},
        )

    def begin_event(self) -> None:
        """Remembers the scene, so that `event_completed` can tell what the event changed."""
        self._event_start = self.snapshot()

    def event_completed(self, verb: str, object: str, target: Target = None) -> bool:
        """Whether the event begun by `begin_event` (or `reset`) has done what its caption says.

        Args:
            verb: one of `programs.VERBS`.
            object: "red puck", "blue puck", "drawer handle", "drawer" or "button".
            target: where a move or place goes ("mat" or "drawer"); None accepts either.
        """
        return completed(verb, object, target, self._event_start, self.snapshot())

    def close(self) -> None:
        """Frees the GL context."""
        self._rig.close()


def completed(verb: str, object: str, target: Target, start: Snapshot, now: Snapshot) -> bool:
    """Whether an event did its work, from the scene's true state at its start and now.

    Thresholds (metres): reach within 0.12 of the object seen from above and 0.19 in height; grasp within 0.04 and the
    fingers stopped by the puck; lift 0.06 up; move within 0.06 of the target seen from above; place and release within
    0.06 of it and low; retreat 0.05 away; open 0.10; close 0.02; press two thirds of the button's travel.
    """
    place = now.objects[object]
    if verb == "reach":
        return bool(np.linalg.norm(now.arm[:2] - place[:2]) < 0.12 and abs(now.arm[2] - place[2]) < 0.19)
    if verb == "grasp":
        return bool(np.linalg.norm(now.arm - place) < 0.04 and 0.3 < now.gripper < 0.85)
    if verb == "lift":
        return bool(place[2] - start.objects[object][2] > 0.06 and np.linalg.norm(now.arm - place) < 0.05)
    if verb in ("move", "place", "release"):
        goals = [target] if target else ["mat", "drawer"]
        near = any(np.abs(place[:2] - now.objects[goal][:2]).max() < 0.06 for goal in goals)
        if verb == "move":
            return bool(near and np.linalg.norm(now.arm - place) < 0.05)
        return bool(near and place[2] < 0.12 and (verb == "place" or now.gripper > 0.85))
    if verb == "retreat":
        return bool(np.linalg.norm(now.arm - start.arm) > 0.05)
    if verb == "open":
        return now.drawer_opening > 0.10
    if verb == "close":
        return now.drawer_opening < 0.02
    if verb == "press":
        return now.button_depth > scene.BUTTON_TRAVEL * 2 / 3
    raise InputError("verb", verb, "a verb of programs.VERBS")
