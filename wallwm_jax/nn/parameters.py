"""Parameters that carry their declaration: the string that gives shape, fan-in, logical axes and optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.core import meta

from wallwm_jax.core.axes import Declaration, declare
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import path_name

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]

_TRUNCATED_STANDARD_DEVIATION = 0.87962566103423978
"""Of a unit normal cut at two standard deviations."""


@struct.dataclass
class DeclaredParameter(meta.AxisMetadata[Any]):
    """The box in which `init` returns a parameter: the array and its declaration."""

    value: Any
    declaration: Declaration = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "DeclaredParameter":
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "DeclaredParameter":
        return self.replace(declaration=self.declaration.stacked(params[nn.PARTITION_NAME]))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "DeclaredParameter":
        stack, body = self.declaration.text.split("|", 1)
        rest = " ".join(stack.split()[1:])
        return self.replace(declaration=declare(f"{rest} | {body.strip()}" if rest else body.strip()))

    def to_nnx_metadata(self) -> dict[str, Any]:
        return {"value": self.value, "declaration": self.declaration.text}

    @classmethod
    def from_nnx_metadata(cls, metadata: Mapping[str, Any]) -> "DeclaredParameter":
        return cls(metadata["value"], declare(metadata["declaration"]))


def parameter(
    module: nn.Module,
    name: str,
    declaration: str,
    sizes: Mapping[str, int],
    init: Initializer | None = None,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """The parameter `name` of `module`, with the shape and fan-in that its declaration and `sizes` give.

    Matrices default to a truncated normal of variance 1 / fan-in and vectors to zeros; tables must pass `init`.
    Raises InputError for an unknown axis, a missing size, a form that names no rule, or a table without `init`.
    """
    parsed = declare(declaration)
    shape = parsed.shape(sizes)
    if init is None:
        if parsed.lookup:
            raise InputError(f"parameter {module.name}/{name}", "no initialiser", "one: a table has no fan-in")
        init = truncated_normal(parsed.fan_in(sizes) ** -0.5) if parsed.is_matrix else zeros
    return module.param(name, lambda key: DeclaredParameter(init(key, shape).astype(dtype), parsed))


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Initialiser of biases and of branches that start as the identity."""
    return jnp.zeros(shape)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Initialiser of normalisation scales."""
    return jnp.ones(shape)


def constant(value: float) -> Initializer:
    """Initialiser with one value everywhere."""
    return lambda key, shape: jnp.full(shape, value)


def normal(standard_deviation: float) -> Initializer:
    """Initialiser of learned tables."""
    return lambda key, shape: standard_deviation * jax.random.normal(key, shape)


def truncated_normal(standard_deviation: float) -> Initializer:
    """Normal cut at two standard deviations, rescaled to the standard deviation asked for."""
    scale = standard_deviation / _TRUNCATED_STANDARD_DEVIATION
    return lambda key, shape: scale * jax.random.truncated_normal(key, -2.0, 2.0, shape)


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, meta.AxisMetadata)


def declarations(boxed: Any) -> Any:
    """The tree of declarations of a tree from `init`; raises InputError for an undeclared array of >= 2 dimensions."""

    def of(path: tuple[Any, ...], leaf: Any) -> Declaration:
        if isinstance(leaf, DeclaredParameter):
            return leaf.declaration
        if leaf.ndim >= 2:
            raise InputError(f"parameter {path_name(path)}", f"shape {leaf.shape} and no declaration", "nn.parameters.parameter")
        return declare("output")

    return jax.tree_util.tree_map_with_path(of, boxed, is_leaf=_is_boxed)


def unbox(boxed: Any) -> Any:
    """The same tree as plain nested dicts of arrays."""
    return meta.unbox(boxed)
