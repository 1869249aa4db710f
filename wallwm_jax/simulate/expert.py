"""The primitive-based expert: turns a program into actions and exact ground-truth events.

What an event does follows from what can be seen or is known at its anchor (the arm's pose, the objects' places, the
caption): where it ends depends on the object, how high it travels and how far short it stops depend on where the arm
came from. Noise that nobody could predict stays at a few millimetres. All positions: unified world frame, metres.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from wallwm_jax.simulate.environment import Snapshot
from wallwm_jax.simulate.programs import Primitive
from wallwm_jax.simulate.recording import CONTROL_HZ
from wallwm_jax.simulate.scene import BUTTON_TRAVEL, PUCK_HALF_HEIGHT

UNDERSHOOT = 0.15
"""Reach and move stop this fraction of their horizontal way before the object: the next event corrects it."""
HOME = np.array([0.52, 0.0])
HOOK_HEIGHT, PRESS_HEIGHT = 0.083, 0.08
FINGER = 0.012
"""Half thickness of the closed fingers along x, with the contact's give."""
END_NOISE = 0.003
MAXIMUM_STEPS = 38


@dataclasses.dataclass(frozen=True)
class Style:
    """What varies from episode to episode."""

    speed: float
    """Mean speed along a path, metres per second."""
    grasp_height: float
    """Height of the fingertips over the surface that the puck stands on."""
    nudge_probability: float = 0.25


@dataclasses.dataclass(frozen=True)
class Motion:
    """A path to follow and what the gripper does: it is commanded to `gripper` from fraction `gripper_from` on."""

    path: Float[np.ndarray, "n 3"]
    gripper: float
    gripper_from: float = 0.0
    dwell: int = 1
    """Control steps at the end of the path."""
    slowness: float = 1.0


def draw_style(generator: np.random.Generator) -> Style:
    """The style of one episode."""
    return Style(generator.uniform(0.26, 0.40), generator.uniform(0.016, 0.028))


def motion(primitive: Primitive, scene: Snapshot, style: Style, generator: np.random.Generator) -> Motion:
    """The motion that performs a primitive from the scene as it is now."""
    noise = np.clip(generator.normal(0.0, END_NOISE, 3), -0.007, 0.007)
    planners = {
        "reach": _reach,
        "grasp": _grasp,
        "lift": _lift,
        "move": _move,
        "place": _place,
        "release": _release,
        "retreat": _retreat,
        "open": _open,
        "close": _close,
        "press": _press,
    }
    return planners[primitive.verb](primitive, scene, style, noise)


def _short_of(start: np.ndarray, goal: np.ndarray, height: float, slope: float) -> np.ndarray:
    """A point over the goal but short of it by a fraction of the horizontal way, higher the longer that way is."""
    way = start[:2] - goal[:2]
    return np.append(goal[:2] + UNDERSHOOT * way, height + slope * min(np.linalg.norm(way), 0.35))


def _reach(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    start, place = scene.arm, scene.objects[primitive.object]
    if primitive.object.endswith("puck"):
        end = _short_of(start, place, place[2] + 0.09, 0.2)
        gripper = 1.0
    elif primitive.object == "button":
        front = place - np.array([0.045 + FINGER, 0.0, 0.0])
        end = _short_of(start, front, PRESS_HEIGHT, 0.08)
        end[0] = min(end[0], front[0])
        gripper = 0.0
    elif scene.drawer_opening < 0.06:
        end = _short_of(start, place + np.array([0.028, 0.0, 0.0]), HOOK_HEIGHT + 0.06, 0.2)
        gripper = 0.0
    else:
        front = place - np.array([0.03 + FINGER, 0.0, 0.0])
        end = _short_of(start, front, HOOK_HEIGHT, 0.15)
        end[0] = min(end[0], front[0])
        gripper = 0.0
    end = end + noise
    middle = np.append(0.35 * start[:2] + 0.65 * end[:2], max(start[2], end[2]) + 0.02)
    return Motion(_curve(start, middle, end), gripper, 0.15)


def _grasp(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    place = scene.objects[primitive.object]
    end = np.array([place[0], place[1], place[2] - PUCK_HALF_HEIGHT + style.grasp_height])
    above = np.append(end[:2], max(end[2] + 0.05, 0.5 * (scene.arm[2] + end[2])))
    return Motion(_curve(scene.arm, above, end), 0.0, 1.0, dwell=6)


def _lift(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    start = scene.arm
    height = 0.17 + 0.4 * np.clip(start[0] - 0.42, 0.0, 0.3)
    end = np.append(start[:2] + 0.3 * (HOME - start[:2]), height) + noise
    return Motion(_curve(start, np.append(start[:2], 0.6 * height), end), 0.0)


def _move(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    start, place = scene.arm, _goal(primitive, scene)
    end = _short_of(start, place, 0.12 if primitive.target == "mat" else 0.215, 0.15) + noise
    middle = np.append(0.5 * (start[:2] + end[:2]), max(start[2], end[2]) + 0.02)
    return Motion(_curve(start, middle, end), 0.0)


def _goal(primitive: Primitive, scene: Snapshot) -> np.ndarray:
    """Where the puck shall stand: on the mat's middle, or in the drawer just clear of the cabinet's edge."""
    place = scene.objects[primitive.target].copy()
    return place - np.array([0.008, 0.0, 0.0]) if primitive.target == "drawer" else place


def _place(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    start, goal = scene.arm, _goal(primitive, scene)
    held = scene.objects[primitive.object] - start
    end = np.append(goal[:2] - held[:2], goal[2] + PUCK_HALF_HEIGHT - held[2] + 0.002)
    above = np.append(end[:2], start[2])
    return Motion(_curve(start, above, end), 0.0, dwell=2)


def _release(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    return Motion(scene.arm[None] + np.zeros((2, 1)), 1.0, dwell=6)


def _retreat(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    start = scene.arm
    way = HOME - start[:2]
    end = np.append(start[:2] + 0.45 * way, 0.20 + 0.25 * min(np.linalg.norm(way), 0.3)) + noise
    if primitive.object == "button" or (primitive.object == "drawer handle" and scene.drawer_opening < 0.06):
        leave = start + np.array([-0.06, 0.0, 0.02])
    else:
        leave = np.append(start[:2], 0.6 * end[2] + 0.4 * start[2])
    return Motion(_curve(start, leave, end), 1.0 if primitive.object.endswith("puck") else 0.0)


def _open(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    bar = scene.objects["drawer handle"]
    hook = np.array([bar[0] + 0.024, bar[1], HOOK_HEIGHT])
    end = hook - np.array([0.15 - scene.drawer_opening + 0.008, 0.0, 0.0])
    above = np.append(hook[:2], 0.5 * (hook[2] + scene.arm[2]))
    return Motion(np.concatenate([_curve(scene.arm, above, hook), end[None]]), 0.0, dwell=2, slowness=1.2)


def _close(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    bar = scene.objects["drawer handle"]
    front = np.array([bar[0] - FINGER - 0.02, bar[1], HOOK_HEIGHT])
    end = front + np.array([scene.drawer_opening + 0.034, 0.0, 0.0])
    return Motion(np.concatenate([_curve(scene.arm, 0.5 * (scene.arm + front), front), end[None]]), 0.0, dwell=2)


def _press(primitive: Primitive, scene: Snapshot, style: Style, noise: np.ndarray) -> Motion:
    face = scene.objects["button"]
    front = np.array([min(face[0] - FINGER - 0.02, scene.arm[0] + 0.03), face[1], PRESS_HEIGHT])
    end = np.array([face[0] - FINGER + BUTTON_TRAVEL, face[1], PRESS_HEIGHT])
    return Motion(np.concatenate([_curve(scene.arm, 0.5 * (scene.arm + front), front), end[None]]), 0.0, dwell=2)


def _curve(start: np.ndarray, middle: np.ndarray, end: np.ndarray, points: int = 24) -> Float[np.ndarray, "n 3"]:
    """The quadratic Bezier curve with these control points."""
    t = np.linspace(0.0, 1.0, points)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def disturbed(plan: Motion, generator: np.random.Generator) -> Motion:
    """The motion with an end that lies 20 to 80 mm off, most of it sideways, and within 15 mm in height."""
    angle, size = 2 * np.pi * generator.uniform(), generator.uniform(0.02, 0.08)
    offset = np.array([size * np.cos(angle), size * np.sin(angle), generator.uniform(-0.015, 0.015)])
    along = np.linspace(0.0, 1.0, len(plan.path))[:, None]
    return dataclasses.replace(plan, path=plan.path + along**2 * offset)


def actions(plan: Motion, gripper: float, style: Style, nudge: Float[np.ndarray, "3"] | None) -> Iterator[np.ndarray]:
    """The action of every control step: x, y, z of the end effector and the gripper's opening, float32.

    Along the path the speed follows the minimum-jerk profile. A nudge pushes the target aside in the first half of the
    way and is then corrected.
    """
    lengths = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(plan.path, axis=0), axis=1)))
    duration = plan.slowness * lengths[-1] / style.speed
    steps = int(np.clip(np.round(CONTROL_HZ * duration), 1, MAXIMUM_STEPS - plan.dwell))
    if lengths[-1] < 1e-6:
        steps = 0
    for index in range(1, steps + plan.dwell + 1):
        progress = min(index / max(steps, 1), 1.0)
        travelled = lengths[-1] * progress**3 * (10 - 15 * progress + 6 * progress**2)
        point = np.array([np.interp(travelled, lengths, plan.path[:, axis]) for axis in range(3)])
        if nudge is not None:
            point = point + nudge * np.exp(-(((progress - 0.35) / 0.16) ** 2))
        begun = progress >= plan.gripper_from and (plan.gripper_from < 1.0 or index > steps)
        yield np.append(point, plan.gripper if begun else gripper).astype(np.float32)


def draw_nudge(primitive: Primitive, style: Style, generator: np.random.Generator) -> Float[np.ndarray, "3"] | None:
    """Now and then a sideways push of 30 to 60 mm during a reach or a move."""
    draws = generator.uniform(size=3)
    if primitive.verb not in ("reach", "move") or draws[0] >= style.nudge_probability:
        return None
    angle, size = 2 * np.pi * draws[1], 0.03 + 0.03 * draws[2]
    return np.array([size * np.cos(angle), size * np.sin(angle), 0.0])
