"""Muon as an Optax transformation whose matrices come from the parameters' declarations.

`optax.contrib.muon` works a parameter at a time and guesses matrices from the number of dimensions. Here the
declaration says which axes are stacked, which are inputs and which are outputs, and matrices of one shape (tall ones
transposed) are orthogonalised in one batch. Configured alike, both give the same updates.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from wallwm_jax.core.axes import AXES, Declaration
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.optim.newton_schulz import SAFE_RESTARTS, cheapest_restarts, orthogonalize
from wallwm_jax.optim.polynomials import Polynomials, polynomials_of

UPDATE_SCALES = ("width", "rms", "none")
ITERATIONS = ("direct", "gram", "cheapest")


@dataclasses.dataclass(frozen=True)
class MuonSettings:
    """Hyperparameters of `scale_by_muon`.

    `update_scale` is "width": sqrt(max(1, outputs / inputs)) (Jordan); "rms": `consistent_rms` sqrt(max(inputs,
    outputs)), which matches AdamW's typical step (Liu et al. 2025); or "none". `products` is the dtype of the
    Newton-Schulz products. `iteration` takes the steps on the matrices themselves ("direct"), on their Gram matrices
    ("gram"), or shape by shape on whichever takes fewer operations ("cheapest"). `coefficients` names a set of
    `optim.polynomials`. `split` names axes along which a parameter is many matrices: ("heads", "key_heads") gives every
    attention head its own.
    """

    momentum: float = 0.95
    nesterov: bool = True
    coefficients: str = "polar_express"
    steps: int = 5
    update_scale: str = "rms"
    consistent_rms: float = 0.2
    products: str = "float32"
    epsilon: float = 1e-8
    iteration: str = "direct"
    split: tuple[str, ...] = ()


class MuonState(NamedTuple):
    """`momentum` is an exponential mean of gradients with the parameters' tree, shapes and dtypes."""

    count: Array
    momentum: Any


def scale_by_muon(declarations: Any, settings: MuonSettings | None = None) -> optax.GradientTransformation:
    """Replaces gradients by orthogonalised momentum; every leaf of the updates must be declared as a matrix.

    `declarations` is a tree of `Declaration` whose paths include those of the updates (leaves that Optax masked away
    are skipped). Raises InputError for an update that no matrix declaration covers.
    """
    settings = settings or MuonSettings()
    polynomials = polynomials_of(settings.coefficients, settings.steps)
    if settings.update_scale not in UPDATE_SCALES:
        raise InputError("muon.update_scale", repr(settings.update_scale), f"one of {UPDATE_SCALES}")
    if unknown := [axis for axis in settings.split if axis not in AXES]:
        raise InputError("muon.split", f"unknown axes {unknown}", f"names from {sorted(AXES)}")
    if settings.iteration not in ITERATIONS:
        raise InputError("muon.iteration", repr(settings.iteration), f"one of {ITERATIONS}")
    rules = named_leaves(declarations)

    def init(parameters: Any) -> MuonState:
        return MuonState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, parameters))

    def update(gradients: Any, state: MuonState, parameters: Any = None) -> tuple[Any, MuonState]:
        del parameters
        beta, count = settings.momentum, optax.safe_increment(state.count)
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.momentum, gradients)
        direction = _direction(momentum, gradients, count, settings)
        matrices, restore = _to_matrices(direction, rules, settings.split)
        groups = collections.defaultdict(list)
        for name, matrix in matrices.items():
            groups[(min(matrix.shape[1:]), max(matrix.shape[1:]), matrix.dtype)].append(name)
        done = {}
        for names in groups.values():
            done.update(_orthogonalize_group({name: matrices[name] for name in names}, polynomials, settings))
        return restore(done), MuonState(count, momentum)

    return optax.GradientTransformation(init, update)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    declarations: Any,
    settings: MuonSettings | None = None,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Muon with decoupled weight decay: step = -learning_rate (orthogonalised momentum + weight_decay parameter)."""
    return optax.chain(
        scale_by_muon(declarations, settings),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def _direction(momentum: Any, gradients: Any, count: Array, settings: MuonSettings) -> Any:
    """Bias-corrected momentum; with Nesterov, looked ahead by one step (the corrections are those of Optax)."""
    beta, steps = settings.momentum, count.astype(jnp.float32)
    if not settings.nesterov:
        return jax.tree.map(lambda m: m / (1 - beta**steps), momentum)
    past, present = beta / (1 - beta ** (steps + 1)), (1 - beta) / (1 - beta**steps)
    return jax.tree.map(lambda m, g: past * m + present * g, momentum, gradients)


def _to_matrices(
    tree: Any, rules: dict[str, Declaration], split: Sequence[str]
) -> tuple[dict[str, Float[Array, "_ _ _"]], Any]:
    """Every leaf as stacked matrices by name, and the function that brings such a dict back to the tree."""
    named, structure = named_leaves(tree), jax.tree.structure(tree)
    for name in named:
        if name not in rules or not rules[name].is_matrix:
            raise InputError(f"parameter {name}", "no matrix declaration", "'inputs -> outputs' to be given to Muon")
    orders = {name: sum(rules[name].matrix_order(split), ()) for name in named}
    matrices = {
        name: leaf.transpose(orders[name]).reshape(rules[name].matrix_shape(leaf.shape, split))
        for name, leaf in named.items()
    }

    def back(name: str, shape: tuple[int, ...], matrices: Array) -> Array:
        order = orders[name]
        return matrices.reshape([shape[place] for place in order]).transpose(np.argsort(order))

    def restore(done: dict[str, Array]) -> Any:
        return jax.tree.unflatten(structure, [back(name, leaf.shape, done[name]) for name, leaf in named.items()])

    return matrices, restore


def _orthogonalize_group(
    matrices: dict[str, Array], polynomials: Polynomials, settings: MuonSettings
) -> dict[str, Array]:
    """One batched Newton-Schulz for all matrices that share a shape up to transposition."""
    wide = [matrix.mT if matrix.shape[1] > matrix.shape[2] else matrix for matrix in matrices.values()]
    stacked = jnp.concatenate(wide)
    cheapest = cheapest_restarts(*stacked.shape[1:], len(polynomials))
    restarts = {"direct": None, "gram": SAFE_RESTARTS, "cheapest": cheapest}[settings.iteration]
    values = orthogonalize(stacked, polynomials, settings.products, settings.epsilon, restarts)
    result, start = {}, 0
    for name, matrix in matrices.items():
        part = values[start : start + matrix.shape[0]]
        start += matrix.shape[0]
        part = part.mT if matrix.shape[1] > matrix.shape[2] else part
        result[name] = part * _update_scale(matrix.shape[1], matrix.shape[2], settings)
    return result


def _update_scale(inputs: int, outputs: int, settings: MuonSettings) -> float:
    if settings.update_scale == "width":
        return max(1.0, outputs / inputs) ** 0.5
    if settings.update_scale == "rms":
        return settings.consistent_rms * max(inputs, outputs) ** 0.5
    return 1.0
