"""Muon for a whole parameter tree: matrices to Muon, all other leaves to AdamW."""

import functools
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves, path_name
from wallwm_jax.optim.leaf_rules import LeafRule
from wallwm_jax.optim.muon import MuonSettings, scale_by_resolved
from wallwm_jax.optim.placement import AnyMesh, check_owners, leaf_specs, sharded_leaves
from wallwm_jax.optim.rules import Rule, resolve

_LOG = logging.getLogger(__name__)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    rule: Rule = None,
    settings: MuonSettings | None = None,
    *,
    weight_decay: ArrayLike = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: DTypeLike | None = None,
    adamw_learning_rate: optax.ScalarOrSchedule | None = None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    epsilon: ArrayLike = 1e-8,
    mesh: AnyMesh | None = None,
    shardings: Any = None,
    owners: Collection[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon for the matrices of any pytree of arrays, AdamW for all its other leaves.

        optimizer = muon(1e-3)
        state = optimizer.init(parameters)

    A matrix moves by -learning_rate (scale * orthogonalised momentum + weight_decay * parameter). The default scale
    gives its update the root mean square of AdamW's (0.2; Liu et al., arXiv 2502.16982), so that both can share a
    learning rate.

    Args:
        rule: which leaves are matrices, and of which axes (`optim.rules`): strings in axis names of your own, Optax's
            `MuonDimensionNumbers`, declarations, a tree or a dict of path patterns of these, or a function of (path,
            leaf). None goes by names and shapes (`optim.default_rule`): embeddings, heads, norms, biases and scales,
            stacked ones too, go to AdamW; of any other leaf [..., in, out] the axes before the last two are stacked
            matrices. `init` logs once what that came to, and `muon_table` lists it.
        settings: the iteration and the momentum (`MuonSettings`).
        weight_decay: of the leaves for which `weight_decay_mask` is true: a tree of booleans, a prefix of one, or a
            function from parameters to one. None decays matrices, those that AdamW gets (heads) included.
        mu_dtype: dtype of the first moments of both; None is each parameter's own.
        adamw_learning_rate: None is `learning_rate`. `b1`, `b2` and `epsilon` are AdamW's as well.
        mesh: the mesh whose devices share the orthogonalisation, with Auto or Explicit axes of any names. None: every
            matrix is orthogonalised as one array, with collectives inside if it is cut; that is warned of once, and
            refused for leaves that are cut over Explicit axes.
        shardings: how the mesh cuts the leaves: a tree, or a prefix, of `NamedSharding`, `PartitionSpec` or arrays.
            None reads it from declarations or the arrays, which show it outside `jit` and on Explicit axes. Updates
            and momentum lie as the leaves do.
        owners: the axes of the mesh whose devices share the work; None is all. Axes that cut a matrix always do.

    A gradient that is None counts as zero and gives an update that is None.

    Raises:
        InputError: numbers out of range; at `init`, a rule that does not fit, leaves that are not real and floating,
            and shardings that cannot be used.
    """
    chosen = settings or MuonSettings()
    _check_numbers(learning_rate, adamw_learning_rate, weight_decay=weight_decay, b1=b1, b2=b2, epsilon=epsilon)
    check_owners(owners, mesh)
    rest = learning_rate if adamw_learning_rate is None else adamw_learning_rate
    say = functools.lru_cache(maxsize=None)(_LOG.warning)  # every message once

    def partitioned(tree: Any) -> optax.GradientTransformationExtraArgs:
        rules, leaves = resolve(rule, tree), named_leaves(tree)
        decays = _decays(weight_decay_mask, tree, rules)
        matrices = {name: leaf for name, leaf in leaves.items() if rules[name].optimizer == "muon"}
        if mesh is None and (cut := sharded_leaves(matrices)):
            say("muon: mesh=None, and %s is cut over devices: every step of its iteration exchanges blocks", cut[0])
        specs = {} if mesh is None else leaf_specs(matrices, rules, mesh, shardings)
        whole = all(decays[name] for name in matrices)
        adamw = functools.partial(optax.adamw, rest, b1=b1, b2=b2, eps=epsilon, mu_dtype=mu_dtype)
        groups = {
            "muon": optax.chain(
                scale_by_resolved(rules, chosen, mesh, specs=specs, mu_dtype=mu_dtype, owners=owners),
                optax.add_decayed_weights(weight_decay, None if whole else _by_name(decays)),
                optax.scale_by_learning_rate(learning_rate),
            ),
            "adamw": adamw(weight_decay=weight_decay),
            "adamw_without_decay": adamw(weight_decay=0.0),
        }
        return optax.partition(groups, _by_name({name: _group(rules[name], decays[name]) for name in rules}))

    def init(parameters: Any) -> optax.OptState:
        if rule is None:
            say("%s", _summary(resolve(None, parameters)))
        return partitioned(parameters).init(parameters)

    def update(gradients: Any, state: optax.OptState, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        filled = _filled(gradients, params)
        like = filled if params is None else params
        updates, state = partitioned(like).update(filled, state, params, **extra)
        if filled is not gradients:
            updates = jax.tree.map(lambda g, u: None if g is None else u, gradients, updates, is_leaf=_is_none)
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def muon_table(parameters: Any, rule: Rule = None) -> list[dict[str, Any]]:
    """One row a leaf: name, shape, its count of numbers, axes, optimizer, decay. Shapes may be abstract.

    Raises what `resolve` raises.
    """
    leaves = named_leaves(parameters)
    return [
        {
            "name": name,
            "shape": tuple(leaves[name].shape),
            "numbers": math.prod(leaves[name].shape),
            "axes": found.text,
            "optimizer": found.optimizer,
            "decay": found.decay,
        }
        for name, found in resolve(rule, parameters).items()
    ]


def _group(rule: LeafRule, decay: bool) -> str:
    if rule.optimizer == "muon":
        return "muon"
    return "adamw" if decay else "adamw_without_decay"


def _by_name(values: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A function from a tree to the same tree of the values that belong to its leaves' paths."""
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: values[path_name(path)], tree)


def _decays(mask: Any, tree: Any, rules: Mapping[str, LeafRule]) -> dict[str, bool]:
    if mask is None:
        return {name: rule.decay for name, rule in rules.items()}
    given = mask(tree) if callable(mask) else mask
    try:
        spread = jax.tree.map(lambda chosen, part: jax.tree.map(lambda _: bool(chosen), part), given, tree)
    except ValueError as error:
        raise InputError("muon weight_decay_mask", str(error).splitlines()[0], "booleans for the tree") from error
    return named_leaves(spread)


def _filled(gradients: Any, parameters: Any) -> Any:
    """Gradients with zeros in place of None where the parameters have an array; the very same if there is no such."""
    if parameters is None or jax.tree.structure(gradients) == jax.tree.structure(parameters):
        return gradients
    return jax.tree.map(
        lambda p, g: jnp.zeros_like(p) if g is None and p is not None else g, parameters, gradients, is_leaf=_is_none
    )


def _is_none(node: Any) -> bool:
    return node is None


def _summary(rules: Mapping[str, LeafRule]) -> str:
    """`muon: no rule given ... matrices: blocks/*/mlp/kernel (12); AdamW: ...`."""
    sides = {"muon": Counter(), "adamw": Counter()}
    for name, rule in rules.items():
        sides[rule.optimizer][f"{re.sub(r'[0-9]+', '*', name)} [{rule.text}]"] += 1
    matrices, rest = (
        ", ".join(f"{name} x {count}" if count > 1 else name for name, count in side.items()) or "none"
        for side in sides.values()
    )
    return f"muon: no rule given, so by names and shapes: matrices: {matrices}; to AdamW: {rest}"


def _check_numbers(*rates: Any, **numbers: Any) -> None:
    """Raises InputError for numbers out of range; what is traced or a schedule is not looked at."""
    for rate in rates:
        if isinstance(rate, int | float) and not 0 <= rate < math.inf:
            raise InputError("muon learning_rate", rate, "a schedule or a finite number, at least 0")
    for name, number in numbers.items():
        most = 1 if name in ("b1", "b2") else math.inf
        if isinstance(number, int | float) and not (0 <= number < most):
            raise InputError(f"muon {name}", number, f"0 <= {name} < {most}")
