"""What is asserted of actions before they leave for a robot (chex)."""

import chex
import numpy as np
from jaxtyping import Float

from wallwm_jax.core.types import UNIFIED_DIMENSION, ActionChunk


def assert_sendable(unified: ActionChunk, commands: Float[np.ndarray, "A n"], names: tuple[str, ...]) -> None:
    """Raises AssertionError unless a chunk and its commands in the robot's layout agree in shape, are float32, and
    hold finite numbers alone. That would be a fault of this library, never of its input."""
    steps = len(unified.actions)
    chex.assert_shape(unified.actions, (steps, UNIFIED_DIMENSION))
    chex.assert_shape(unified.step_mask, (steps,))
    chex.assert_shape(unified.dof_mask, (UNIFIED_DIMENSION,))
    chex.assert_shape(commands, (steps, len(names)))
    chex.assert_type([unified.actions, commands], [np.float32, np.float32])
    chex.assert_tree_all_finite({"unified": unified.actions, "commands": commands})
