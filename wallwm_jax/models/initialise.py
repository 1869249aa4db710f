"""Fresh parameters of a model, with the declaration of every one."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from wallwm_jax.core.mesh import parameter_shardings
from wallwm_jax.core.types import EventBatch, PlanBatch, TrainingBatch
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.drawing import materialise
from wallwm_jax.nn.parameters import declarations, unbox


def abstract_inputs(model: WorldAction, batch: EventBatch, draws: int = 1) -> tuple[Any, ...]:
    """Inputs of `WorldAction.__call__`: `batch` (with zero latents unless it has its own), no noise, times of one."""
    rows, segments = batch.segment_mask.shape
    noisy_video = jnp.zeros((*batch.border_mask.shape, model.variant.channels))
    noisy_action = jnp.zeros((rows, draws, *batch.actions.shape[1:]))
    given = batch if batch.latents is not None else batch._replace(latents=noisy_video)
    times = jnp.ones((rows, segments)), jnp.ones((rows, draws, segments))
    return given, noisy_video, noisy_action, *times


def init_parameters(
    model: WorldAction, key: PRNGKeyArray, batch: EventBatch, mesh: Mesh | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters as plain nested dicts, their declarations). Only the batch's shapes matter: parameters depend on
    `key` alone. They lie in the shards that their declarations ask for on `mesh`, or whole on the default device.
    Raises InputError for a parameter without a declaration."""
    return _materialised(_boxed(model, batch), key, mesh)


def abstract_parameters(model: WorldAction, batch: EventBatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same as shapes and dtypes, of which nothing is allocated."""
    boxed = _boxed(model, batch)
    return unbox(boxed), declarations(boxed)


def init_reasoner(
    model: Reasoner, key: PRNGKeyArray, batch: PlanBatch, mesh: Mesh | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same for the vision-language side."""
    return _materialised(_boxed_reasoner(model, batch), key, mesh)


def abstract_reasoner(model: Reasoner, batch: PlanBatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """`abstract_parameters` of the vision-language side."""
    boxed = _boxed_reasoner(model, batch)
    return unbox(boxed), declarations(boxed)


def _materialised(boxed: Any, key: PRNGKeyArray, mesh: Mesh | None) -> tuple[dict[str, Any], dict[str, Any]]:
    declared = declarations(boxed)
    shardings = None if mesh is None else parameter_shardings(unbox(boxed), declared, mesh)
    return materialise(boxed, key, shardings), declared


def _boxed(model: WorldAction, batch: EventBatch) -> Any:
    """Shapes in the boxes that declare them; they depend on no key."""
    inputs = jax.eval_shape(lambda row: abstract_inputs(model, row), _one_row(batch))
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def _boxed_reasoner(model: Reasoner, batch: PlanBatch) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), _one_row(batch))["params"]


def _one_row(batch: TrainingBatch) -> TrainingBatch:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
