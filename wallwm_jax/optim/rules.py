"""Which leaves of a parameter tree are matrices, as a user can say it, resolved leaf by leaf.

A rule for a tree is one of the forms of `optim.leaf_rules` for every leaf; a tree of them, or a prefix of the tree (a
rule covers what is below it); a dict from path patterns to them (`{"*/kernel": "in -> out"}`, shell wildcards, the
first match counts, a leaf that none matches goes to AdamW); a function of (path, leaf) that returns one of them; or
None for `optim.default_rule`.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from wallwm_jax.core.axes import Declaration
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves, path_name
from wallwm_jax.optim.default_rule import default_rules
from wallwm_jax.optim.leaf_rules import EXPECTED, LeafRule, LeafText, leaf_rule

Rule = LeafText | Callable[[str, Any], LeafText] | Any
"""See the module's docstring."""


def resolve(rule: Rule, tree: Any) -> dict[str, LeafRule]:
    """The rule of every leaf of a tree of arrays (or shapes), by slash-separated path.

    Raises:
        InputError: a leaf without a rule, or with one that does not fit its number of axes; a rule that no leaf has;
            a leaf that is not real and floating; a text that cannot be read.
    """
    leaves = named_leaves(tree)
    for name, leaf in leaves.items():
        _check_dtype(name, leaf)
    found = {}
    for name, given in _rules_by_leaf(rule, tree, leaves).items():
        shape = jnp.shape(leaves[name])
        found[name] = given if isinstance(given, LeafRule) else leaf_rule(given, name, shape)
        if math.prod(shape) == 0:  # nothing to orthogonalise
            found[name] = dataclasses.replace(found[name], inputs=(), outputs=(), optimizer="adamw")
    return found


def _rules_by_leaf(rule: Rule, tree: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Every leaf's rule as the user has written it."""
    if rule is None:
        return default_rules(leaves)
    if _is_leaf_rule(rule):
        return dict.fromkeys(leaves, rule)
    if isinstance(rule, Mapping) and any(isinstance(key, str) and set("*?/") & set(key) for key in rule):
        return _by_patterns(rule, tree, leaves)
    if callable(rule):
        return {name: rule(name, leaf) for name, leaf in leaves.items()}
    return _by_prefix(rule, tree, leaves)


def _by_patterns(rule: Mapping[str, Any], tree: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
    for pattern in rule:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in leaves) and not _is_part(tree):
            raise InputError(f"muon rule {pattern!r}", "no leaf that it matches", f"a pattern of {sorted(leaves)}")
    return {
        name: next((given for pattern, given in rule.items() if fnmatch.fnmatchcase(name, pattern)), None)
        for name in leaves
    }


def _by_prefix(rule: Any, tree: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """By the rule's own paths, so that a dict of rules serves a dataclass or an `nnx.State` as well."""
    given = {path_name(path): one for path, one in jax.tree_util.tree_flatten_with_path(rule, _is_leaf_rule)[0]}
    found, used = {}, set()
    for name in leaves:
        parts = name.split("/")
        prefixes = ("/".join(parts[:end]) for end in range(len(parts), -1, -1))
        prefix = next((prefix for prefix in prefixes if prefix in given), None)
        if prefix is None:
            raise InputError(f"parameter {name}", "no rule", f"one of {EXPECTED}")
        found[name] = given[prefix]
        used.add(prefix)
    unused = [name for name, one in given.items() if name not in used and not isinstance(one, Declaration)]
    if unused and not _is_part(tree):
        raise InputError(f"muon rule of {unused[0]}", "no leaf there", f"paths of {sorted(leaves)}")
    return found


def _is_leaf_rule(value: Any) -> bool:
    return value is None or isinstance(value, str | MuonDimensionNumbers | Declaration | LeafRule)


def _is_part(tree: Any) -> bool:
    """Whether Optax has masked leaves of the tree away, for which there may be rules."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(node, optax.MaskedNode) for node in nodes)


def _check_dtype(name: str, leaf: Any) -> None:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"parameter {name}", f"dtype {dtype}", "a real floating-point dtype")
