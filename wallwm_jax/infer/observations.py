"""Converts a robot's own dictionary to an `Observation`, and validates observations."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import ARMS, LEFT_ARM, RIGHT_ARM, ROTATION, UNIFIED_DIMENSION, Observation
from wallwm_jax.data.embodiment import Embodiment

SMALLEST_SINE = 1e-3
"""Sine of the smallest angle between two rotation columns (0.06 degrees); anything smaller is rounding error."""
STATE, CAMERAS = "state", ("views", "cameras")
"""Keys of a robot's dictionary."""


def check_observations(observations: Sequence[Observation]) -> None:
    """Raises InputError unless all images have one shape and every state passes `check_state`."""
    shapes = {observation.views.shape for observation in observations}
    if len(shapes) > 1:
        raise InputError("observation.views", sorted(shapes), "one shape [V, H, W, 3]")
    for place, observation in enumerate(observations):
        check_state(f"observation {place}: state", observation.state, observation.dof_mask)


def check_state(field: str, state: Float[np.ndarray, "26"], dof_mask: Bool[np.ndarray, "26"]) -> None:
    """Raises InputError, whose message starts with `field`, for a non-finite state or a degenerate rotation.

    Every degree of freedom in `dof_mask` must be finite. For every arm whose rotation is in `dof_mask`, the two columns
    must be non-zero and non-parallel, so that Gram-Schmidt yields a rotation matrix.
    """
    bad = np.flatnonzero(~np.isfinite(state) & dof_mask)
    if bad.size:
        raise InputError(field, f"no finite number in degrees of freedom {bad.tolist()}", "finite numbers")
    for name, arm in (("left_arm", LEFT_ARM), ("right_arm", RIGHT_ARM)):
        rotation = slice(arm.start + ROTATION.start, arm.start + ROTATION.stop)
        fault = _fault_of_rotation(state[rotation]) if dof_mask[rotation].all() else None
        if fault:
            raise InputError(f"{field}: {name} rotation", fault, "two non-parallel columns of a rotation matrix")


def _fault_of_rotation(columns: Float[np.ndarray, "6"]) -> str | None:
    first, second = np.asarray(columns, np.float64).reshape(2, 3)
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    if min(lengths) < SMALLEST_SINE:
        return "zero columns"
    sine = np.linalg.norm(np.cross(first, second)) / (lengths[0] * lengths[1])
    return "parallel columns" if sine < SMALLEST_SINE else None


def robot_observation(
    given: Observation | Mapping[str, Any], embodiment: Embodiment, image_size: tuple[int, int] | None = None
) -> Observation:
    """Validates an observation, converting it from the robot's own dictionary if necessary.

    Args:
        given: an `Observation`, or a dictionary with one uint8 picture [H, W, 3] for every camera of the embodiment,
            under its name, either beside the other keys or together under "views" or "cameras"; and "state", either
            a dictionary of numbers by the robot's own names or an array in the order of the embodiment's `state`
            (metres, radians, gripper from 0 closed to 1 open). A picture that is None marks its camera as absent; it is
            masked out.
        image_size: height and width that pictures must have; None accepts any, equal for all cameras.

    Raises:
        InputError: naming the camera or the entry of the state that is unknown, missing or wrong.
    """
    if isinstance(given, Observation):
        seen = given
        if len(seen.views) != len(embodiment.views):
            raise InputError("observation.views", f"{len(seen.views)} pictures", f"one for each of {embodiment.views}")
        _check_pictures(dict(zip(embodiment.views, seen.views, strict=True)), image_size)
    elif isinstance(given, Mapping):
        pictures, state = _parts(given, embodiment)
        views, view_mask = _views(pictures, embodiment, image_size)
        seen = Observation(views, view_mask, _state(state, embodiment), embodiment.dof_mask)
    else:
        raise InputError("observation", type(given).__name__, "an Observation or a dictionary")
    # Every commanded degree of freedom is decoded relative to the state, even if the observation masks it.
    check_state("observation: state", seen.state, seen.dof_mask | embodiment.dof_mask)
    return seen


def blank_observation(embodiment: Embodiment, image_size: tuple[int, int]) -> Observation:
    """Black pictures, arms at the origin with identity rotation: a valid observation to compile programs with."""
    state = np.zeros(UNIFIED_DIMENSION, np.float32)
    for arm in ARMS:
        state[arm][ROTATION] = (1, 0, 0, 0, 1, 0)
    views = np.zeros((len(embodiment.views), *image_size, 3), np.uint8)
    return Observation(views, np.ones(len(views), bool), state, embodiment.dof_mask)


def _parts(given: Mapping[str, Any], embodiment: Embodiment) -> tuple[Mapping[str, Any], Any]:
    """Pictures by camera, and the state as it was given."""
    if STATE not in given:
        raise InputError("observation: state", f"no key {STATE!r} among {sorted(map(str, given))}", "the robot's state")
    rest = {name: value for name, value in given.items() if name != STATE}
    groups = [name for name in CAMERAS if name in rest]
    if len(groups) > 1:
        raise InputError("observation", f"both {groups[0]!r} and {groups[1]!r}", f"one of {CAMERAS}")
    pictures = rest
    if groups:
        pictures = rest.pop(groups[0])
        if not isinstance(pictures, Mapping):
            raise InputError(f"observation: {groups[0]}", type(pictures).__name__, "a dictionary of pictures by camera")
        _check_names("observation", rest, ())
    _check_names("observation: camera", pictures, embodiment.views)
    return pictures, given[STATE]


def _check_names(field: str, found: Mapping[str, Any], expected: Sequence[str]) -> None:
    """Raises InputError for names that are unknown, or missing."""
    for name in found:
        if name not in expected:
            near = difflib.get_close_matches(str(name), expected, n=1)
            hint = f" (nearest: {near[0]!r})" if near else ""
            raise InputError(field, repr(name), f"one of {tuple(expected)}{hint}" if expected else "no other key")
    for name in expected:
        if name not in found:
            raise InputError(f"{field} {name!r}", "nothing", "a value for each of " + str(tuple(expected)))


def _views(
    pictures: Mapping[str, Any], embodiment: Embodiment, image_size: tuple[int, int] | None
) -> tuple[UInt8[np.ndarray, "V H W 3"], Bool[np.ndarray, "V"]]:
    present = {name: np.asarray(pictures[name]) for name in embodiment.views if pictures[name] is not None}
    if not present:
        raise InputError("observation: cameras", "none of them present", "at least one picture")
    _check_pictures(present, image_size)
    blank = np.zeros_like(next(iter(present.values())))
    views = np.stack([present.get(name, blank) for name in embodiment.views])
    return views, np.array([name in present for name in embodiment.views])


def _check_pictures(pictures: Mapping[str, Shaped[np.ndarray, "..."]], image_size: tuple[int, int] | None) -> None:
    size = image_size
    for name, picture in pictures.items():
        field = f"observation: camera {name!r}"
        if picture.dtype != np.uint8:
            raise InputError(field, picture.dtype, "uint8 from 0 to 255")
        if picture.ndim != 3 or picture.shape[-1] != 3:
            raise InputError(field, f"shape {picture.shape}", "[H, W, 3]")
        size = size or picture.shape[:2]
        if picture.shape[:2] != tuple(size):
            raise InputError(field, f"{picture.shape[0]} x {picture.shape[1]} pixels", f"{size[0]} x {size[1]}")


def _state(given: Any, embodiment: Embodiment) -> Float[np.ndarray, "26"]:
    names = tuple(embodiment.state)
    if isinstance(given, Mapping):
        _check_names("observation: state", given, names)
        values = [_number(name, given[name]) for name in names]
    else:
        try:
            array = np.asarray(given, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError("observation: state", type(given).__name__, f"numbers for {names}") from error
        if array.shape != (len(names),):
            raise InputError("observation: state", f"shape {array.shape}", f"[{len(names)}]: {names}")
        values = [_number(name, value) for name, value in zip(names, array, strict=True)]
    return embodiment.lift(np.asarray(values, np.float32)[None])[0]


def _number(name: str, value: Any) -> float:
    """A finite number, or InputError."""
    try:
        number = float(np.asarray(value, np.float64).reshape(()))
    except (TypeError, ValueError) as error:
        raise InputError(f"observation: state: {name}", repr(value)[:80], "a number") from error
    if not np.isfinite(number):
        raise InputError(f"observation: state: {name}", number, "a finite number")
    return number
