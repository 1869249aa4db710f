"""Which parameters a stage trains: a set of tower names splits a parameter tree in two.

A frozen parameter is not masked but absent from everything that trains: no gradient, no update, no decay, no
optimizer state. It therefore leaves a step with the very bits that it entered with.
"""

from collections.abc import Collection, Mapping
from typing import Any

from wallwm_jax.core.errors import InputError

SHARED = "blocks"
"""The scanned stack that holds a block of every tower."""


def tower_of(path: str) -> str:
    """Tower of a parameter's slash-separated path: its first name, or the second one inside the shared stack."""
    names = path.split("/")
    return names[1] if names[0] == SHARED and len(names) > 1 else names[0]


def split(tree: Mapping[str, Any], towers: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the named towers, all the others) of a nested dict of parameters, or of declarations.

    Raises InputError naming a tower that the tree does not have.
    """
    present = {tower_of(name) for name in _tower_paths(tree)}
    if absent := sorted(set(towers) - present):
        raise InputError("towers to train", absent, f"names from {sorted(present)}")
    chosen, others = {}, {}
    for name, part in tree.items():
        if name != SHARED:
            (chosen if name in towers else others)[name] = part
            continue
        for tower, block in part.items():
            (chosen if tower in towers else others).setdefault(SHARED, {})[tower] = block
    return chosen, others


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The tree whose two parts `split` returned, in a fixed (sorted) order."""
    merged = {name: part for name, part in [*first.items(), *second.items()] if name != SHARED}
    if SHARED in first or SHARED in second:
        merged[SHARED] = {**first.get(SHARED, {}), **second.get(SHARED, {})}
    return {name: merged[name] for name in sorted(merged)}


def _tower_paths(tree: Mapping[str, Any]) -> list[str]:
    shared = tree.get(SHARED, {})
    return [name for name in tree if name != SHARED] + [f"{SHARED}/{name}" for name in shared]
