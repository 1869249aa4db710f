"""A robot's dictionary becomes an observation, and whatever is wrong with it is one error that names the place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import LEFT_ARM, RIGHT_ARM, ROTATION
from wallwm_jax.data.embodiment import UNIFIED_NAMES, Embodiment, unit
from wallwm_jax.infer.observations import blank_observation, check_state, robot_observation

NAMES = ("x", "y", "z", "gripper")
STATE = {"x": 0.1, "y": 0.2, "z": 0.3, "gripper": 1.0}
BIMANUAL = Embodiment(
    "bimanual", 20.0, ("front",), "state", "action",
    state={name: name for name in UNIFIED_NAMES}, action={name: name for name in UNIFIED_NAMES},
)  # fmt: skip


def picture(value, size=16):
    return np.full((size, size, 3), value, np.uint8)


def robot(**changes):
    return {"front": picture(1), "wrist": picture(2), "state": dict(STATE)} | changes


@pytest.mark.parametrize("group", [None, "views", "cameras"])
@pytest.mark.parametrize("state", [STATE, list(STATE.values()), np.array(list(STATE.values()))], ids=str)
def test_every_form_of_a_dictionary_is_the_same_observation(embodiment, group, state):
    """Pictures flat or grouped, in any order; the state by name or in the embodiment's order."""
    pictures = {"wrist": picture(2), "front": picture(1)}
    seen = robot_observation({"state": state} | ({group: pictures} if group else pictures), embodiment)
    assert seen.views[:, 0, 0, 0].tolist() == [1, 2] and seen.view_mask.all()
    np.testing.assert_allclose(embodiment.lower(seen.state[None])[0], list(STATE.values()), rtol=1e-6)
    assert robot_observation(seen, embodiment) is seen


def test_a_camera_is_absent_only_if_its_picture_is_none(embodiment):
    """It is masked and black; a camera that is merely forgotten is refused."""
    seen = robot_observation(robot(wrist=None), embodiment)
    assert seen.view_mask.tolist() == [True, False] and not seen.views[1].any()
    without = robot()
    del without["wrist"]
    with pytest.raises(InputError, match="camera 'wrist': found nothing"):
        robot_observation(without, embodiment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wirst": picture(0)}, "camera: found 'wirst'.*nearest: 'wrist'"),
        ({"front": picture(0, 8)}, "camera 'wrist': found 16 x 16 pixels, expected 8 x 8"),
        ({"front": picture(0).astype(np.float32)}, "camera 'front': found float32, expected uint8"),
        ({"front": picture(0)[..., :2]}, r"camera 'front': found shape \(16, 16, 2\)"),
        ({"front": None, "wrist": None}, "none of them present"),
        ({"state": STATE | {"x": np.nan}}, "state: x: found nan, expected a finite number"),
        ({"state": STATE | {"x": "left"}}, "state: x: found 'left', expected a number"),
        ({"state": STATE | {"w": 1.0}}, "state: found 'w'"),
        ({"state": {"x": 0.0}}, "state 'y': found nothing"),
        ({"state": [0.0] * 3}, r"state: found shape \(3,\)"),
        ({"state": "home"}, "state: found str"),
    ],
)
def test_what_is_wrong_is_named(embodiment, changes, message):
    """Cameras and entries by the robot's names, with what was found and what was expected."""
    with pytest.raises(InputError, match=message):
        robot_observation(robot(**changes), embodiment)


def test_what_is_no_observation_is_refused(embodiment):
    """No state, both groups of cameras, another key beside a group, another size than the policy's."""
    pictures = {"front": picture(1), "wrist": picture(2)}
    for given_, message in (
        (pictures, "observation: state: found no key 'state'"),
        ({"views": pictures, "cameras": pictures, "state": STATE}, "found both"),
        ({"views": pictures, "speed": 1.0, "state": STATE}, "found 'speed', expected no other key"),
        ({"views": picture(1), "state": STATE}, "a dictionary of pictures by camera"),
    ):
        with pytest.raises(InputError, match=message):
            robot_observation(given_, embodiment)
    with pytest.raises(InputError, match="found 16 x 16 pixels, expected 32 x 32"):
        robot_observation(robot(), embodiment, (32, 32))
    seen = robot_observation(robot(), embodiment)
    with pytest.raises(InputError, match="found 1 pictures"):
        robot_observation(seen._replace(views=seen.views[:1]), embodiment)


@pytest.mark.parametrize("arm", [LEFT_ARM, RIGHT_ARM], ids=["left_arm", "right_arm"])
@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ((0,) * 6, "zero"),
        ((1, 0, 0, 0, 0, 0), "zero"),
        ((1, 2, 3, 2, 4, 6), "parallel"),
        ((1, 0, 0, -1, 0, 0), "parallel"),
    ],
)
def test_a_degenerate_rotation_is_refused_by_name(arm, columns, fault):
    """Gram-Schmidt would make NaN of it. An arm that the robot does not have may hold anything."""
    seen = blank_observation(BIMANUAL, (8, 8))
    check_state("state", seen.state, seen.dof_mask)
    state, mask, name = seen.state.copy(), seen.dof_mask.copy(), "left_arm" if arm is LEFT_ARM else "right_arm"
    state[arm][ROTATION] = columns
    with pytest.raises(InputError, match=f"state: {name} rotation: found {fault} columns, expected two non-parallel"):
        check_state("state", state, mask)
    with pytest.raises(InputError, match=f"{name} rotation"):
        robot_observation(
            {"front": picture(0), "state": dict(zip(UNIFIED_NAMES, state.tolist(), strict=True))}, BIMANUAL
        )
    mask[arm] = False
    check_state("state", state, mask)


@given(numbers=st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_a_state_that_passes_gives_finite_rotations(numbers):
    """Whatever `check_state` lets through survives the round trip to relative actions and back."""
    from wallwm_jax.data.transforms import absolute_actions, relative_actions

    seen = blank_observation(BIMANUAL, (8, 8))
    state = seen.state.copy()
    state[LEFT_ARM][ROTATION] = numbers
    try:
        check_state("state", state, seen.dof_mask)
    except InputError:
        return
    relative = relative_actions(state, state[None], seen.dof_mask)
    assert np.isfinite(absolute_actions(state, relative, seen.dof_mask)).all()


def test_every_degree_of_freedom_has_a_unit():
    """Metres, radians, gripper opening or rotation entry; other names are refused."""
    units = {name: unit(name) for name in UNIFIED_NAMES}
    assert units["left_arm.x"] == units["lift.height"] == units["base.y"] == "metres"
    assert units["base.yaw"] == units["head.pitch"] == "radians" and "rotation" in units["right_arm.r21"]
    with pytest.raises(InputError, match="degree of freedom"):
        unit("left_leg.x")
