"""Fresh parameters of a model, with the declaration of every one."""

from typing import Any

import jax
import jax.numpy as jnp

from wallwm_jax.core.types import EventBatch, PlanBatch
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.parameters import declarations, materialise


def abstract_inputs(model: WorldAction, batch: EventBatch, draws: int = 1) -> tuple[Any, ...]:
    """Zero inputs of `WorldAction.__call__` that fit `batch`."""
    rows, slots, _, views = batch.frames.shape[:4]
    cells, channels, segments = model.variant.cells, model.variant.channels, batch.segment_mask.shape[1]
    noisy_video = jnp.zeros((rows, slots, views, cells, cells, channels))
    noisy_action = jnp.zeros((rows, draws, *batch.actions.shape[1:]))
    times = jnp.ones((rows, segments)), jnp.ones((rows, draws, segments))
    return batch, noisy_video, noisy_action, *times, noisy_video


def init_parameters(model: WorldAction, key: jax.Array, batch: EventBatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters as plain nested dicts, their declarations). Only the batch's shapes matter: parameters depend on
    `key` alone. Raises InputError for a parameter without a declaration."""
    one_row = jax.tree.map(lambda leaf: leaf[:1], batch)
    boxed = jax.eval_shape(model.init, key, *jax.eval_shape(lambda row: abstract_inputs(model, row), one_row))["params"]
    return materialise(boxed, key), declarations(boxed)


def init_reasoner(model: Reasoner, key: jax.Array, batch: PlanBatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same for the vision-language side."""
    one_row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
    boxed = jax.eval_shape(model.init, key, one_row)["params"]
    return materialise(boxed, key), declarations(boxed)
