"""Parameters that carry their declaration: the string that gives shape, fan-in, logical axes and optimizer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.core import meta

from wallwm_jax.core.axes import Declaration, declare
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import path_name


@dataclasses.dataclass(frozen=True)
class Initializer:
    """Independent normal numbers; with no spread, a constant. Data rather than a function, so that a whole model can be
    drawn by one compiled program instead of one a parameter."""

    mean: float = 0.0
    standard_deviation: float = 0.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if not self.standard_deviation:
            return jnp.full(shape, self.mean)
        return self.mean + self.standard_deviation * jax.random.normal(key, shape)


zeros, ones = Initializer(), Initializer(1.0)
"""Of biases and of branches that start as the identity; of normalisation scales."""


def normal(standard_deviation: float) -> Initializer:
    """Initialiser of learned tables."""
    return Initializer(0.0, standard_deviation)


@struct.dataclass
class DeclaredParameter(meta.AxisMetadata[Any]):
    """The box in which `init` returns a parameter: the array and its declaration."""

    value: Any
    declaration: Declaration = struct.field(pytree_node=False)
    initializer: Initializer = struct.field(pytree_node=False, default=zeros)

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

    Matrices default to a normal of variance 1 / fan-in and vectors to zeros; tables must pass `init`.
    Raises InputError for an unknown axis, a missing size, a form that names no rule, or a table without `init`.
    """
    parsed = declare(declaration)
    shape = parsed.shape(sizes)
    if init is None:
        if parsed.lookup:
            raise InputError(f"parameter {module.name}/{name}", "no initialiser", "one: a table has no fan-in")
        init = normal(parsed.fan_in(sizes) ** -0.5) if parsed.is_matrix else zeros
    return module.param(name, lambda key: DeclaredParameter(init(key, shape).astype(dtype), parsed, init))


def is_boxed(leaf: Any) -> bool:
    """Whether a leaf of a tree from `init` is a box."""
    return isinstance(leaf, meta.AxisMetadata)


def declarations(boxed: Any) -> Any:
    """The tree of declarations of a tree from `init`; raises InputError for a parameter without one."""

    def of(path: tuple[Any, ...], leaf: Any) -> Declaration:
        if not isinstance(leaf, DeclaredParameter):
            raise InputError(f"parameter {path_name(path)}", f"shape {leaf.shape} and no declaration", "a declaration")
        return leaf.declaration

    return jax.tree_util.tree_map_with_path(of, boxed, is_leaf=is_boxed)


def unbox(boxed: Any) -> Any:
    """The same tree as plain nested dicts of arrays."""
    return meta.unbox(boxed)
