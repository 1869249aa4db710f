"""Symmetric matrices of which a product takes three quarters of the operations.

No library call multiplies into one triangle alone on every accelerator; but of a symmetric product in blocks two by two
the lower left one need not be computed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Symmetric(NamedTuple):
    """A symmetric matrix [[a, b], [b^T, c]] as `upper` [a, b] and `right` [b; c], so that no product has to transpose a
    block. Whole ones have all their rows in `upper`, and no column in `right`."""

    upper: Float[Array, "*n h m"]
    right: Float[Array, "*n m r"]

    @property
    def whole(self) -> Float[Array, "*n m m"]:
        h = self.upper.shape[-2]
        lower = jnp.concatenate([self.upper[..., h:].mT, self.right[..., h:, :]], axis=-1)
        return jnp.concatenate([self.upper, lower], axis=-2)


def gram(values: Float[Array, "*n m k"], halves: bool) -> Symmetric:
    """values values^T, whole or by halves."""
    h = height(values.shape[-2], halves)
    upper, lower = values[..., :h, :], values[..., h:, :]
    return _joined(product(upper, upper.mT), product(upper, lower.mT), product(lower, lower.mT))


def times(left: Symmetric, right: Symmetric) -> Symmetric:
    """left right of matrices that commute."""
    return _times(left.upper, left.right.mT, right)


def congruent(factor: Symmetric, matrix: Symmetric) -> Symmetric:
    """factor matrix factor, symmetric to the last bit: what rounding leaves of an antisymmetric part would grow with
    every step of an iteration."""
    left, h = product(factor.whole, matrix.whole), factor.upper.shape[-2]
    found = _times(left[..., :h, :], left[..., h:, :], factor)
    first, beside, last = found.upper[..., :h], found.upper[..., h:], found.right[..., h:, :]
    return _joined((first + first.mT) / 2, beside, (last + last.mT) / 2)


def plus_identity(scale: Float[Array, "..."], matrix: Symmetric) -> Symmetric:
    """matrix + scale 1."""
    (h, m), dtype = matrix.upper.shape[-2:], matrix.upper.dtype
    return Symmetric(
        matrix.upper + scale * jnp.eye(h, m, dtype=dtype), matrix.right + scale * jnp.eye(m, m - h, -h, dtype=dtype)
    )


def combined(coefficients: list[Float[Array, "..."]], matrices: list[Symmetric]) -> Symmetric:
    """The sum of coefficients[i] matrices[i]."""
    return jax.tree.map(
        lambda *parts: sum(number * part for number, part in zip(coefficients, parts, strict=True)), *matrices
    )


def squared_norm(matrix: Symmetric) -> Float[Array, "*n 1 1"]:
    """Of all entries, the sum of squares, in fp32: `upper` and `right` have the block beside the diagonal once each."""
    upper, right = (jnp.square(part.astype(jnp.float32)) for part in matrix)
    return sum(jnp.sum(part, axis=(-2, -1), keepdims=True) for part in (upper, right))


def height(m: int, halves: bool) -> int:
    """Rows of `upper`."""
    return m // 2 if halves and m > 1 else m


def product_flops(m: int, inner: int, halves: bool) -> int:
    """Floating-point operations of an m x m product over `inner`."""
    h = height(m, halves)
    return 2 * inner * (h * m + (m - h) ** 2)


def product(left: Float[Array, "*n m k"], right: Float[Array, "*n k l"]) -> Float[Array, "*n m l"]:
    """A product whose fp32 factors no device rounds."""
    # Unless told otherwise accelerators round fp32 factors to bf16, or to something in between.
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return jnp.matmul(left, right, precision=precision)


def _times(upper: Array, lower: Array, right: Symmetric) -> Symmetric:
    """Of the rows of a left factor."""
    return _joined(product(upper, right.upper.mT), product(upper, right.right), product(lower, right.right))


def _joined(first: Array, beside: Array, last: Array) -> Symmetric:
    return Symmetric(jnp.concatenate([first, beside], axis=-1), jnp.concatenate([beside, last], axis=-2))
