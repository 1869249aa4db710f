"""Muon as an Optax transformation whose matrices come from the parameters' declarations.

`optax.contrib.muon` works a parameter at a time and guesses matrices from the number of dimensions. Here the
declaration says which axes are stacked, which are inputs and which are outputs, and matrices of one shape (tall ones
transposed) are orthogonalised in one batch. Configured alike, both give the same updates.

Under a mesh of several devices every matrix is orthogonalised once, by the device that owns it (`optim.ownership`).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float

from wallwm_jax.core.axes import AXES
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.optim.exchange import orthogonalize_by_owners
from wallwm_jax.optim.freeze import tower_of
from wallwm_jax.optim.matrices import MatrixView, view_of
from wallwm_jax.optim.newton_schulz import SAFE_RESTARTS, cheapest_restarts, in_turn, iteration_flops, orthogonalize
from wallwm_jax.optim.ownership import Group, Ownership, assign
from wallwm_jax.optim.polynomials import polynomials_of

UPDATE_SCALES = ("width", "rms", "none")
ITERATIONS = ("direct", "gram", "cheapest")
NORMS = ("frobenius", "schatten")
BATCH_ELEMENTS: Mapping[str, int] = {"float32": 2**17, "bfloat16": 2**23}
"""Matrices of one shape are orthogonalised together up to this size, by the dtype of the products: more saves no time
and takes memory. CPUs multiply matrices faster than batches of them; an H200 takes eight of 1024 x 1024 together, in
bf16, in 0.6 of the time of one after the other."""
STACK_ELEMENTS = 2**20
"""Leaves are stacked up to this size, or to that of a batch."""


@dataclasses.dataclass(frozen=True)
class MuonSettings:
    """Hyperparameters of `scale_by_muon`.

    `products` is the dtype of the Newton-Schulz products, and of what devices send each other: "float32", which is not
    rounded and slow on accelerators, or "bfloat16". `update_scale` is
    "width": sqrt(max(1, outputs / inputs)) (Jordan); "rms": `consistent_rms` sqrt(max(inputs, outputs)), which matches
    AdamW's typical step (Liu et al. 2025); or "none". `iteration` takes the steps on the matrices themselves
    ("direct"), on their Gram matrices ("gram"), or shape by shape on whichever takes fewer operations ("cheapest").
    `coefficients` names a set of `optim.polynomials`, of which `steps` are taken; they start from matrices of `norm`
    one: "frobenius", or "schatten", which leaves them larger singular values for nothing. With `halves` symmetric
    products are taken without a quarter of their blocks, which pays on CPUs, for matrices of a thousand rows and more,
    and costs on GPUs. `split` names axes along which a parameter is many matrices: ("heads", "key_heads") gives every
    attention head its own. `tower_coefficients` names other sets for some towers: {"action": "high_pass"}.
    """

    momentum: float = 0.95
    nesterov: bool = True
    coefficients: str = "polar_express"
    steps: int = 5
    norm: str = "frobenius"
    update_scale: str = "rms"
    consistent_rms: float = 0.2
    products: str = "float32"
    epsilon: float = 1e-8
    iteration: str = "direct"
    halves: bool = False
    split: tuple[str, ...] = ()
    tower_coefficients: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def restarts(self, m: int, k: int, coefficients: str) -> Sequence[int] | None:
        """What `orthogonalize` is told for matrices of a shape and a set."""
        if self.iteration == "direct":
            return None
        safe = SAFE_RESTARTS[self.products]
        if self.iteration == "gram":
            return safe
        return cheapest_restarts(m, k, polynomials_of(coefficients, self.steps), safe, self.halves)

    def flops(self, m: int, k: int, coefficients: str) -> int:
        """Operations of one matrix's iteration."""
        polynomials = polynomials_of(coefficients, self.steps)
        return iteration_flops(m, k, polynomials, self.restarts(m, k, coefficients), self.halves)


class MuonState(NamedTuple):
    """`momentum` is an exponential mean of gradients with the parameters' tree, shapes and dtypes."""

    count: Array
    momentum: Any


def scale_by_muon(
    declarations: Any, settings: MuonSettings | None = None, mesh: Mesh | AbstractMesh | None = None
) -> optax.GradientTransformation:
    """Replaces gradients by orthogonalised momentum; every leaf of the updates must be declared as a matrix.

    `declarations` is a tree of `Declaration` whose paths include those of the updates (leaves that Optax masked away
    are skipped). `mesh` is the one that `core.mesh.parameter_shardings` has laid the parameters on: its devices share
    the orthogonalisation, and momentum stays where the parameters are. None: one device does all.

    Raises InputError for an update that no matrix declaration covers.
    """
    settings = settings or MuonSettings()
    _check(settings, declarations)

    def init(parameters: Any) -> MuonState:
        return MuonState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, parameters))

    def update(gradients: Any, state: MuonState, parameters: Any = None) -> tuple[Any, MuonState]:
        del parameters
        beta, count = settings.momentum, optax.safe_increment(state.count)
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.momentum, gradients)
        direction = _direction(momentum, gradients, count, settings)
        views = matrix_views(direction, declarations, settings, mesh)
        named = named_leaves(direction)
        alone = mesh is None or mesh.size == 1
        done = _alone(named, views, settings) if alone else _shared(named, views, settings, mesh)
        updates = jax.tree.unflatten(jax.tree.structure(direction), [done[name] for name in named])
        return updates, MuonState(count, momentum)

    return optax.GradientTransformation(init, update)


def _check(settings: MuonSettings, declarations: Any) -> None:
    """Raises InputError for a name that means nothing."""
    for coefficients in (settings.coefficients, *settings.tower_coefficients.values()):
        polynomials_of(coefficients, settings.steps)
    towers = {tower_of(name) for name in named_leaves(declarations)}
    if unknown := sorted(set(settings.tower_coefficients) - towers):
        raise InputError("muon.tower_coefficients", f"towers {unknown}", f"names from {sorted(towers)}")
    if settings.update_scale not in UPDATE_SCALES:
        raise InputError("muon.update_scale", repr(settings.update_scale), f"one of {UPDATE_SCALES}")
    if unknown := [axis for axis in settings.split if axis not in AXES]:
        raise InputError("muon.split", f"unknown axes {unknown}", f"names from {sorted(AXES)}")
    if settings.products not in SAFE_RESTARTS:
        raise InputError("muon.products", repr(settings.products), f"one of {sorted(SAFE_RESTARTS)}")
    if settings.norm not in NORMS:
        raise InputError("muon.norm", repr(settings.norm), f"one of {NORMS}")
    if settings.iteration not in ITERATIONS:
        raise InputError("muon.iteration", repr(settings.iteration), f"one of {ITERATIONS}")


def muon(
    learning_rate: optax.ScalarOrSchedule,
    declarations: Any,
    settings: MuonSettings | None = None,
    weight_decay: float = 0.0,
    mesh: Mesh | AbstractMesh | None = None,
) -> optax.GradientTransformation:
    """Muon with decoupled weight decay: step = -learning_rate (orthogonalised momentum + weight_decay parameter)."""
    return optax.chain(
        scale_by_muon(declarations, settings, mesh),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def matrix_views(
    tree: Any, declarations: Any, settings: MuonSettings, mesh: Mesh | AbstractMesh | None
) -> dict[str, MatrixView]:
    """How Muon sees every leaf (arrays or shapes) of a tree, by name; on a mesh, cut as its parameters are.

    Raises InputError for a leaf that no matrix declaration covers.
    """
    rules, views = named_leaves(declarations), {}
    for name, leaf in named_leaves(tree).items():
        if name not in rules or not rules[name].is_matrix:
            raise InputError(f"parameter {name}", "no matrix declaration", "'inputs -> outputs' to be given to Muon")
        coefficients = settings.tower_coefficients.get(tower_of(name), settings.coefficients)
        views[name] = view_of(rules[name], leaf.shape, coefficients, settings.split, mesh)
    return views


def ownership_of(
    views: Mapping[str, MatrixView], mesh: Mapping[str, int], settings: MuonSettings
) -> tuple[Ownership, list[list[str]]]:
    """Who orthogonalises what on a mesh (axis name -> size), and the names of the leaves in every share's group."""
    members: dict[tuple, list[str]] = collections.defaultdict(list)
    for name, view in views.items():
        members[(*view.wide, view.wide_cut, view.coefficients)].append(name)
    counts = [sum(views[name].stacked_on(mesh) for name in names) for names in members.values()]
    groups = [
        Group(m, k, cut, count, settings.flops(m, k, coefficients))
        for (m, k, cut, coefficients), count in zip(members, counts, strict=True)
    ]
    return assign(groups, mesh), list(members.values())


def _direction(momentum: Any, gradients: Any, count: Array, settings: MuonSettings) -> Any:
    """Bias-corrected momentum; with Nesterov, looked ahead by one step (the corrections are those of Optax)."""
    beta, steps = settings.momentum, count.astype(jnp.float32)
    if not settings.nesterov:
        return jax.tree.map(lambda m: m / (1 - beta**steps), momentum)
    past, present = beta / (1 - beta ** (steps + 1)), (1 - beta) / (1 - beta**steps)
    return jax.tree.map(lambda m, g: past * m + present * g, momentum, gradients)


def _alone(named: Mapping[str, Array], views: Mapping[str, MatrixView], settings: MuonSettings) -> dict[str, Array]:
    """All matrices of one shape up to transposition in batches, on this device."""
    members: dict[tuple, list[list[str]]] = collections.defaultdict(lambda: [[]])
    largest = BATCH_ELEMENTS[settings.products]
    for name, leaf in named.items():
        batches = members[(*views[name].wide, views[name].coefficients, leaf.dtype)]
        if batches[-1] and sum(named[other].size for other in batches[-1]) + leaf.size > max(STACK_ELEMENTS, largest):
            batches.append([])
        batches[-1].append(name)
    done, last = {}, None
    for (m, k, coefficients, _), batches in members.items():
        run = _iteration(m, k, coefficients, settings)
        for names in batches:
            stacked = jnp.concatenate([views[name].matrices(named[name]) for name in names])
            stacked = stacked if last is None else _held_back(stacked, last)
            size = _together(len(stacked), largest // (m * k))
            values = in_turn(run, stacked, len(stacked) // size, size)
            done.update(_leaves(values, {name: named[name] for name in names}, views, settings))
            last = values[0, 0, 0]
    return done


def _held_back(stacked: Array, last: Float[Array, ""]) -> Array:
    """`stacked` unchanged, once the last batch is done: all at a time would need the temporaries of all. XLA drops its
    optimization barriers on CPU, but cannot know that no entry of an orthogonal matrix is as small as this."""
    return stacked * jnp.where(last < -1e30, 2.0, 1.0).astype(stacked.dtype)


def _shared(
    named: Mapping[str, Array],
    views: Mapping[str, MatrixView],
    settings: MuonSettings,
    mesh: Mesh | AbstractMesh,
) -> dict[str, Array]:
    """Every matrix once, on the device of the mesh that owns it."""
    ownership, members = ownership_of(views, dict(mesh.shape), settings)

    def local(blocks: dict[str, Array]) -> dict[str, Array]:
        done = {}
        for share, names in zip(ownership.shares, members, strict=True):
            run = _iteration(share.group.m, share.group.k, views[names[0]].coefficients, settings)
            stacked = jnp.concatenate([views[name].matrices(blocks[name]) for name in names])
            values = orthogonalize_by_owners(stacked, share, settings.products, run)
            done.update(_leaves(values, {name: blocks[name] for name in names}, views, settings))
        return done

    specs = {name: view.spec for name, view in views.items()}
    # What an all-gather over replicas returns is equal on all of them, which the type of an array does not say.
    return jax.shard_map(local, mesh=mesh, in_specs=(specs,), out_specs=specs, check_vma=False)(dict(named))


def _leaves(
    values: Float[Array, "n m k"], leaves: Mapping[str, Array], views: Mapping[str, MatrixView], settings: MuonSettings
) -> dict[str, Array]:
    """Stacked updates, in the order of `leaves`, as leaves of these shapes; scaled."""
    result, start = {}, 0
    for name, leaf in leaves.items():
        view = views[name]
        part = values[start : start + view.stacked(leaf.shape)]
        start += len(part)
        part = part * _update_scale(view.inputs, view.outputs, settings)
        result[name] = view.leaf(part.astype(leaf.dtype), leaf.shape)
    return result


def _iteration(m: int, k: int, coefficients: str, settings: MuonSettings) -> Callable[[Array], Array]:
    return functools.partial(
        orthogonalize,
        polynomials=polynomials_of(coefficients, settings.steps),
        dtype=settings.products,
        epsilon=settings.epsilon,
        restarts=settings.restarts(m, k, coefficients),
        norm=settings.norm,
        halves=settings.halves,
    )


def _together(count: int, most: int) -> int:
    """Of how many of `count` matrices a turn consists, if `most` fit and turns are alike: one at least."""
    return max(size for size in range(1, min(count, max(most, 1)) + 1) if count % size == 0)


def _update_scale(inputs: int, outputs: int, settings: MuonSettings) -> float:
    if settings.update_scale == "width":
        return max(1.0, outputs / inputs) ** 0.5
    if settings.update_scale == "rms":
        return settings.consistent_rms * max(inputs, outputs) ** 0.5
    return 1.0
