"""What the backward pass finds of a block, and what it computes again, by name."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from wallwm_jax.core.errors import InputError

_Module = TypeVar("_Module", bound=type[nn.Module])

_BRANCH = "branch"

REMATS: Mapping[str, Callable[..., Any] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "branches": jax.checkpoint_policies.save_only_these_names(_BRANCH),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""How much is computed again, from nothing to everything: "dots" keeps the products with weights, "branches" what
attention and feed-forward networks add to the residual stream, "full" nothing but the block's input. None: no remat."""


def branch(x: Array) -> Array:
    """Marks the output of a block's branch, as it is before its gate."""
    return checkpoint_name(x, _BRANCH)


def check_remat(name: object) -> None:
    """Raises InputError for a name that is not among REMATS."""
    if not isinstance(name, str) or name not in REMATS:
        raise InputError("config.model.remat", repr(name), f"one of {list(REMATS)}")


def rematerialised(block: _Module, name: str) -> _Module:
    """The block of a scan with the remat of that name; raises InputError if there is none."""
    check_remat(name)
    policy = REMATS[name]
    return block if policy is None else nn.remat(block, prevent_cse=False, policy=policy)
