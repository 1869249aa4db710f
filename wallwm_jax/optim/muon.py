"""The orthogonalised momentum of Muon as an Optax transformation of the matrices of a tree.

`optax.contrib.muon` works a parameter at a time. Here matrices of one shape (tall ones transposed) are orthogonalised
in one batch; which axes are stacked, inputs and outputs is said by a rule (`optim.rules`). Configured alike, both give
the same updates. `optim.optimizer.muon` is the whole optimizer, with AdamW for all other leaves.

Under a mesh of several devices every matrix is orthogonalised once, by the device that owns it (`optim.ownership`).
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from wallwm_jax.core.axes import AXES
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.optim.exchange import orthogonalize_by_owners
from wallwm_jax.optim.freeze import tower_of
from wallwm_jax.optim.leaf_rules import LeafRule
from wallwm_jax.optim.matrices import MatrixView, view_of
from wallwm_jax.optim.newton_schulz import (
    RESTART_EVERY,
    SMALL_ROWS,
    cheapest_restarts,
    in_turn,
    iteration_flops,
    orthogonalize,
    safe_restarts,
)
from wallwm_jax.optim.ownership import Group, Ownership, assign
from wallwm_jax.optim.placement import AnyMesh, check_owners, leaf_specs
from wallwm_jax.optim.polynomials import polynomials_of
from wallwm_jax.optim.rules import Rule, resolve

UPDATE_SCALES = ("width", "rms", "none")
ITERATIONS = ("direct", "gram", "cheapest")
NORMS = ("frobenius", "schatten")
MOST_STEPS = 50
_CHOICES = {
    "update_scale": UPDATE_SCALES,
    "iteration": ITERATIONS,
    "norm": NORMS,
    "products": tuple(sorted(RESTART_EVERY)),
}
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
    ("direct"), on their Gram matrices ("gram"), or shape by shape on whichever is faster ("cheapest").
    `coefficients` names a set of `optim.polynomials`, of which `steps` are taken; they start from matrices of `norm`
    one: "frobenius", or "schatten", which leaves them larger singular values for nothing. With `halves` symmetric
    products are taken without a quarter of their blocks; None does so where it pays, which on CPUs is for fp32 products
    of matrices of 128 rows and more (in bf16 it costs, on GPUs). The first `exact_steps` of bf16 products are nearly
    those of fp32, so that matrices of low rank come out with a cosine of .99 with U V^T, at 1.5 times the cost of the
    iteration. A mesh of several devices takes none: it rounds matrices to bf16 when it sends them, and rank 1 comes out
    with .36 to .48 there; fp32 products keep it. `split` names axes along which a parameter is many matrices:
    ("heads", "key_heads") gives every attention head its own. `tower_coefficients` names other sets for some towers:
    {"action": "high_pass"}.
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
    iteration: str = "cheapest"
    halves: bool | None = None
    exact_steps: int = 2
    split: tuple[str, ...] = ()
    tower_coefficients: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for coefficients in (self.coefficients, *self.tower_coefficients.values()):
            polynomials_of(coefficients, 1)
        for field, names in _CHOICES.items():
            if getattr(self, field) not in names:
                raise InputError(f"muon.{field}", repr(getattr(self, field)), f"one of {names}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= MOST_STEPS:
            raise InputError("muon.steps", self.steps, f"a whole number from 1 to {MOST_STEPS}")
        if isinstance(self.exact_steps, bool) or not 0 <= self.exact_steps <= MOST_STEPS:
            raise InputError("muon.exact_steps", self.exact_steps, f"a whole number from 0 to {MOST_STEPS}")
        if not 0 <= self.momentum < 1:
            raise InputError("muon.momentum", self.momentum, "0 <= momentum < 1")
        for field in ("epsilon", "consistent_rms"):
            if not (0 < getattr(self, field) < math.inf):
                raise InputError(f"muon.{field}", getattr(self, field), "a positive number")

    def restarts(self, m: int, k: int, coefficients: str, exact_steps: int = 0) -> Sequence[int] | None:
        """What `orthogonalize` is told for matrices of a shape and a set."""
        if self.iteration == "direct":
            return None
        safe = safe_restarts(self.products, self.steps, exact_steps)
        if self.iteration == "gram":
            return safe
        return cheapest_restarts(m, k, polynomials_of(coefficients, self.steps), safe, self.halved(m))

    def halved(self, m: int) -> bool:
        """Whether symmetric products of matrices of m rows are taken by halves."""
        return self.products == "float32" and m >= SMALL_ROWS if self.halves is None else self.halves

    def exact(self, devices: int) -> int:
        """Exact steps on so many devices."""
        return min(self.exact_steps, self.steps) if self.products == "bfloat16" and devices == 1 else 0

    def flops(self, m: int, k: int, coefficients: str, exact_steps: int = 0) -> int:
        """Operations of one matrix's iteration."""
        polynomials = polynomials_of(coefficients, self.steps)
        restarts = self.restarts(m, k, coefficients, exact_steps)
        return iteration_flops(m, k, polynomials, restarts, self.halved(m), exact_steps)


class MuonState(NamedTuple):
    """`momentum` is an exponential mean of gradients with the parameters' tree, shapes and dtypes."""

    count: Array
    momentum: Any


def scale_by_muon(
    rule: Rule = None,
    settings: MuonSettings | None = None,
    mesh: AnyMesh | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
    shardings: Any = None,
    owners: Collection[str] | None = None,
) -> optax.GradientTransformation:
    """Replaces gradients by orthogonalised momentum; every leaf of the updates must be a matrix by `rule`.

    Leaves that Optax has masked away are skipped; all other arguments are those of `optim.optimizer.muon`.

    Raises:
        InputError: an update that is no matrix by the rule, and what `resolve` and `leaf_specs` raise.
    """
    check_owners(owners, mesh)
    chosen = settings or MuonSettings()

    def transformation(tree: Any) -> optax.GradientTransformation:
        rules = resolve(rule, tree)
        leaves = named_leaves(tree)
        specs = {} if mesh is None else leaf_specs(leaves, rules, mesh, shardings)
        return scale_by_resolved(rules, chosen, mesh, specs=specs, mu_dtype=mu_dtype, owners=owners)

    def update(gradients: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        return transformation(gradients).update(gradients, state, params)

    return optax.GradientTransformation(lambda parameters: transformation(parameters).init(parameters), update)


def scale_by_resolved(
    rules: Mapping[str, LeafRule],
    settings: MuonSettings,
    mesh: AnyMesh | None = None,
    *,
    specs: Mapping[str, PartitionSpec],
    mu_dtype: DTypeLike | None = None,
    owners: Collection[str] | None = None,
) -> optax.GradientTransformation:
    """`scale_by_muon` with a rule and, on a mesh, a partition for every leaf by path."""
    _check_names(settings, rules)

    def init(parameters: Any) -> MuonState:
        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=mu_dtype), parameters)
        return MuonState(jnp.zeros([], jnp.int32), zeros)

    def update(gradients: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        del params
        beta, count = settings.momentum, optax.safe_increment(state.count)
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.momentum, gradients)
        direction = _direction(momentum, gradients, count, settings)
        direction = jax.tree.map(lambda d, g: d.astype(g.dtype), direction, gradients)
        named = named_leaves(direction)
        views = _views(named, rules, settings, specs)
        alone = mesh is None or mesh.size == 1
        done = _alone(named, views, settings) if alone else _shared(named, views, settings, mesh, owners)
        updates = jax.tree.unflatten(jax.tree.structure(direction), [done[name] for name in named])
        momentum = jax.tree.map(lambda new, old: new.astype(old.dtype), momentum, state.momentum)
        return updates, MuonState(count, momentum)

    return optax.GradientTransformation(init, update)


def _check_names(settings: MuonSettings, rules: Mapping[str, LeafRule]) -> None:
    """Raises InputError for towers and axes of the settings that no leaf has."""
    towers = {tower_of(name) for name in rules}
    if rules and (unknown := sorted(set(settings.tower_coefficients) - towers)):
        raise InputError("muon.tower_coefficients", f"towers {unknown}", f"names from {sorted(towers)}")
    axes = {axis for rule in rules.values() for axis in rule.names} | AXES.keys()
    if unknown := [axis for axis in settings.split if axis not in axes]:
        raise InputError("muon.split", f"unknown axes {unknown}", f"names from {sorted(axes)}")


def matrix_views(
    tree: Any, rule: Rule, settings: MuonSettings, mesh: AnyMesh | None, shardings: Any = None
) -> dict[str, MatrixView]:
    """How Muon sees every leaf (arrays or shapes) of a tree, by name; on a mesh, cut as its parameters are.

    Raises InputError for a leaf that is no matrix by the rule.
    """
    leaves, rules = named_leaves(tree), resolve(rule, tree)
    return _views(leaves, rules, settings, {} if mesh is None else leaf_specs(leaves, rules, mesh, shardings))


def _views(
    leaves: Mapping[str, Any],
    rules: Mapping[str, LeafRule],
    settings: MuonSettings,
    specs: Mapping[str, PartitionSpec],
) -> dict[str, MatrixView]:
    views = {}
    for name, leaf in leaves.items():
        if not rules[name].is_matrix:
            raise InputError(f"parameter {name}", "no matrix", "'inputs -> outputs' to be given to Muon")
        coefficients = settings.tower_coefficients.get(tower_of(name), settings.coefficients)
        spec = specs.get(name, PartitionSpec())
        views[name] = view_of(rules[name], leaf.shape, coefficients, settings.split, spec)
    return views


def ownership_of(
    views: Mapping[str, MatrixView],
    mesh: Mapping[str, int],
    settings: MuonSettings,
    owners: Collection[str] | None = None,
) -> tuple[Ownership, list[list[str]]]:
    """Who orthogonalises what on a mesh (axis name -> size), and the names of the leaves in every share's group."""
    members: dict[tuple, list[str]] = collections.defaultdict(list)
    for name, view in views.items():
        members[(*view.wide, view.wide_cut, view.coefficients)].append(name)
    exact = settings.exact(math.prod(mesh.values()))
    counts = [sum(views[name].stacked_on(mesh) for name in names) for names in members.values()]
    groups = [
        Group(m, k, cut, count, settings.flops(m, k, coefficients, exact))
        for (m, k, cut, coefficients), count in zip(members, counts, strict=True)
    ]
    return assign(groups, mesh, owners), list(members.values())


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
        run = _iteration(m, k, coefficients, settings, settings.exact(1))
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
    mesh: AnyMesh,
    owners: Collection[str] | None,
) -> dict[str, Array]:
    """Every matrix once, on the device of the mesh that owns it."""
    ownership, members = ownership_of(views, dict(mesh.shape), settings, owners)

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


def _iteration(
    m: int, k: int, coefficients: str, settings: MuonSettings, exact_steps: int = 0
) -> Callable[[Array], Array]:
    return functools.partial(
        orthogonalize,
        polynomials=polynomials_of(coefficients, settings.steps),
        dtype=settings.products,
        epsilon=settings.epsilon,
        restarts=settings.restarts(m, k, coefficients, exact_steps),
        norm=settings.norm,
        halves=settings.halved(m),
        exact_steps=exact_steps,
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
