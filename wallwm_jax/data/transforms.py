"""Poses relative to an anchor and back, in the unified layout.

Positions, base, lift and head are differences from the anchor's *state*, in world axes; a rotation is the world-axes
rotation that turns the anchor's into the target's; the gripper stays absolute, since open and closed mean the same
wherever the event starts.
"""

import numpy as np
from jaxtyping import Bool, Float

from wallwm_jax.core.types import ARMS, GRIPPER, ROTATION, UNIFIED_DIMENSION


def _within(arm: slice, part: slice) -> slice:
    return slice(arm.start + part.start, arm.start + part.stop)


def rotation_matrix(columns: Float[np.ndarray, "... 6"]) -> Float[np.ndarray, "... 3 3"]:
    """The rotation whose first two columns are nearest to `columns` by Gram-Schmidt."""
    first = columns[..., :3] / np.linalg.norm(columns[..., :3], axis=-1, keepdims=True)
    second = columns[..., 3:] - (first * columns[..., 3:]).sum(-1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=-1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def rotation_columns(matrix: Float[np.ndarray, "... 3 3"]) -> Float[np.ndarray, "... 6"]:
    """The first two columns of a rotation matrix, one after the other."""
    return np.concatenate([matrix[..., 0], matrix[..., 1]], axis=-1)


def relative_actions(
    anchor: Float[np.ndarray, "26"], actions: Float[np.ndarray, "A 26"], dof_mask: Bool[np.ndarray, "26"]
) -> Float[np.ndarray, "A 26"]:
    """Absolute unified targets as seen from the anchor state; zero where `dof_mask` is False. Float64."""
    anchor, actions = np.asarray(anchor, np.float64), np.asarray(actions, np.float64)
    relative = actions - anchor
    for arm in ARMS:
        gripper, rotation = _within(arm, GRIPPER), _within(arm, ROTATION)
        relative[:, gripper] = actions[:, gripper]
        if dof_mask[rotation].all():
            turned = rotation_matrix(actions[:, rotation]) @ rotation_matrix(anchor[rotation]).T
            relative[:, rotation] = rotation_columns(turned)
    return np.where(dof_mask, relative, 0.0)


def absolute_actions(
    anchor: Float[np.ndarray, "26"], relative: Float[np.ndarray, "A 26"], dof_mask: Bool[np.ndarray, "26"]
) -> Float[np.ndarray, "A 26"]:
    """Inverse of `relative_actions`; the anchor's own value where `dof_mask` is False. Float64."""
    anchor, relative = np.asarray(anchor, np.float64), np.asarray(relative, np.float64)
    absolute = anchor + relative
    for arm in ARMS:
        gripper, rotation = _within(arm, GRIPPER), _within(arm, ROTATION)
        absolute[:, gripper] = relative[:, gripper]
        if dof_mask[rotation].all():
            turned = rotation_matrix(relative[:, rotation]) @ rotation_matrix(anchor[rotation])
            absolute[:, rotation] = rotation_columns(turned)
    assert absolute.shape[-1] == UNIFIED_DIMENSION
    return np.where(dof_mask, absolute, anchor)
