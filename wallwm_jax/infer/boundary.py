"""chex assertions on actions before they are returned to the caller, who sends them to a robot."""

import chex
import numpy as np
from jaxtyping import Float

from wallwm_jax.core.types import UNIFIED_DIMENSION, ActionChunk


def assert_sendable(unified: ActionChunk, commands: Float[np.ndarray, "A n"], names: tuple[str, ...]) -> None:
    """Raises AssertionError unless the chunk and its commands in the robot's layout are float32, finite and of matching
    shapes. A failure is a bug in this library, not bad input."""
    steps = len(unified.actions)
    chex.assert_shape(unified.actions, (steps, UNIFIED_DIMENSION))
    chex.assert_shape(unified.step_mask, (steps,))
    chex.assert_shape(unified.dof_mask, (UNIFIED_DIMENSION,))
    chex.assert_shape(commands, (steps, len(names)))
    chex.assert_type([unified.actions, commands], [np.float32, np.float32])
    chex.assert_tree_all_finite({"unified": unified.actions, "commands": commands})
