"""The training state: one pytree, so that it shards, donates and saves as a whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, Int

from wallwm_jax.core.mesh import HOST_MEMORY, parameter_shardings, replicated
from wallwm_jax.core.trees import named_leaves, path_name
from wallwm_jax.optim import freeze
from wallwm_jax.train.checkpoint import Placement
from wallwm_jax.train.stages import Stage


class TrainState(NamedTuple):
    """`average` and `optimizer_state` cover the trained towers only; `parameters` all of them, frozen ones included."""

    step: Int[Array, ""]
    events: Int[Array, ""]
    """Events seen so far."""
    skipped: Int[Array, ""]
    """Steps that changed nothing because their loss, gradient or update was not finite."""
    parameters: Any
    average: Any
    optimizer_state: Any


def create_state(stage: Stage, optimizer: optax.GradientTransformation, parameters: Any) -> TrainState:
    """The state at step 0. The average starts as a copy, so that both can be donated."""
    trained, _ = freeze.split(parameters, stage.trains)
    zero = jnp.zeros([], jnp.int32)
    average = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), trained)
    return TrainState(zero, zero + 0, zero + 0, parameters, average, optimizer.init(trained))


def averaged_parameters(state: TrainState, stage: Stage) -> Any:
    """All parameters, the trained towers by their average: what the next stage and inference use."""
    trained, frozen = freeze.split(state.parameters, stage.trains)
    average = jax.tree.map(lambda mean, leaf: mean.astype(leaf.dtype), state.average, trained)
    return freeze.merge(average, frozen)


def placement_by(parameters: Any, declarations: Any, mesh: Mesh | AbstractMesh) -> Placement:
    """Where the arrays of a state lie whose parameters have these shapes: what has a parameter's path and shape
    (average, moments) lies like the parameter, all else on every device."""
    shardings = named_leaves(parameter_shardings(parameters, declarations, mesh))
    rules = {name: (tuple(leaf.shape), shardings[name]) for name, leaf in named_leaves(parameters).items()}

    def place(path: str, shape: tuple[int, ...]) -> NamedSharding:
        names = path.split("/")
        for start in range(len(names)):
            expected, sharding = rules.get("/".join(names[start:]), (None, None))
            if expected == tuple(shape):
                return sharding
        return replicated(mesh)

    return place


def state_shardings(
    state: TrainState, declarations: Any, mesh: Mesh | AbstractMesh, offload_optimizer: bool = False
) -> TrainState:
    """A sharding for every leaf, by `placement_by`; the optimizer's state is in the hosts' memory if asked for."""
    place = placement_by(state.parameters, declarations, mesh)
    shardings = jax.tree_util.tree_map_with_path(lambda path, leaf: place(path_name(path), leaf.shape), state)
    if not offload_optimizer:
        return shardings
    offloaded = jax.tree.map(lambda sharding: sharding.with_memory_kind(HOST_MEMORY), shardings.optimizer_state)
    return shardings._replace(optimizer_state=offloaded)
