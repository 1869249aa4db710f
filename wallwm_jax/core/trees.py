"""Small functions on parameter trees."""

import hashlib
import math
from typing import Any

import jax
import numpy as np


def path_name(path: tuple[Any, ...]) -> str:
    """`towers/block/video/query` for the key path of a leaf."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by its slash-separated path, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def parameter_count(tree: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def digest(tree: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes: equal digests mean bit-equal trees."""
    total = hashlib.sha256()
    for name, leaf in named_leaves(tree).items():
        array = np.asarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
