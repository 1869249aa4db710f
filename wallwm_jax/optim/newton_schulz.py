"""Newton-Schulz orthogonalisation of batches of matrices: the inner loop of Muon.

The steps are X <- (a I + b A + c A A) X with A = X X^T, which drives every singular value of X towards one. They can be
taken on X itself, or on the smaller Gram matrix A and then be applied to X at once (`restarts`), which costs less for a
wide X.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from wallwm_jax.optim.polynomials import Polynomials

SAFE_RESTARTS: Mapping[str, tuple[int, ...]] = {"bfloat16": (1, 3), "float32": (5,)}
"""Steps after which the Gram matrix is formed anew, by the dtype of the products. Less often, errors of bf16 products
grow without bound on spectra that decay; those of fp32 products stay below 3e-3 on all that were tried."""


def orthogonalize(
    matrices: Float[Array, "n m k"],
    polynomials: Polynomials,
    dtype: DTypeLike = jnp.float32,
    epsilon: float = 1e-8,
    restarts: Sequence[int] | None = None,
) -> Float[Array, "n m k"]:
    """Every matrix with its singular values driven towards one; needs m <= k to be cheap, holds for any shape.

    Args:
        dtype: of the products. Those in fp32 are not rounded, on no device.
        restarts: None takes the steps on the matrices; numbers take them on Gram matrices, which are formed anew after
            that many steps (`SAFE_RESTARTS`).
    """
    values = _normalised(matrices, epsilon).astype(dtype)
    values = _direct(values, polynomials) if restarts is None else _gram(values, polynomials, restarts)
    return values.astype(matrices.dtype)


def in_turn(
    run: Callable[[Float[Array, "size m k"]], Float[Array, "size m k"]],
    matrices: Float[Array, "n m k"],
    turns: int | Int[Array, ""],
    size: int = 1,
) -> Float[Array, "n m k"]:
    """`run` on the first `turns * size` matrices, `size` at a time and in their place: one turn's temporaries."""
    if isinstance(turns, int) and turns == 1 and size == len(matrices):
        return run(matrices)

    def turn(number: Array, values: Array) -> Array:
        chosen = jax.lax.dynamic_slice_in_dim(values, number * size, size)
        return jax.lax.dynamic_update_slice_in_dim(values, run(chosen).astype(values.dtype), number * size, 0)

    return jax.lax.fori_loop(0, turns, turn, matrices)


def iteration_flops(m: int, k: int, steps: int, restarts: Sequence[int] | None = None) -> int:
    """Floating-point operations of `orthogonalize` on one m x k matrix, m <= k: those of its matrix products."""
    wide, square = 2 * m * m * k, 2 * m * m * m
    if restarts is None:
        return steps * (2 * wide + square)
    lengths = [len(part) for part in _parts(range(steps), restarts)]
    return sum(2 * wide + (length + 3 * (length - 1)) * square for length in lengths)


def cheapest_restarts(m: int, k: int, steps: int, restarts: Sequence[int]) -> Sequence[int] | None:
    """`restarts` if the iteration on Gram matrices takes fewer operations than the direct one, or else None."""
    return restarts if iteration_flops(m, k, steps, restarts) < iteration_flops(m, k, steps) else None


def _normalised(matrices: Float[Array, "n m k"], epsilon: float) -> Float[Array, "n m k"]:
    """In fp32, with Frobenius norm one. The norm is taken after division by the largest entry, because the plain sum of
    squares overflows at entries of 1e20 and would return an update of exactly zero."""
    values = matrices.astype(jnp.float32)
    largest = jnp.max(jnp.abs(values), axis=(1, 2), keepdims=True)
    largest = jnp.where(largest > 0, largest, 1.0)
    values = values / largest
    norm = jnp.sqrt(jnp.sum(jnp.square(values), axis=(1, 2), keepdims=True))
    return values / (norm + epsilon / largest)


def _direct(values: Float[Array, "n m k"], polynomials: Polynomials) -> Float[Array, "n m k"]:
    def step(values: Array, abc: Array) -> tuple[Array, None]:
        a, b, c = abc
        gram = _product(values, values.mT)
        return a * values + _product(b * gram + c * _product(gram, gram), values), None

    # A scan keeps one copy of the products a shape in the program, which is what compiling a small model costs.
    return jax.lax.scan(step, values, jnp.asarray(polynomials, values.dtype))[0]


def _gram(values: Float[Array, "n m k"], polynomials: Polynomials, restarts: Sequence[int]) -> Float[Array, "n m k"]:
    """All polynomials of a Gram matrix commute and are symmetric, so that a step on it is P A P."""
    identity = jnp.eye(values.shape[1], dtype=values.dtype)

    def part(values: Array, steps: Array) -> tuple[Array, None]:
        gram, product = _product(values, values.mT), None
        for number, (a, b, c) in enumerate(steps, start=1):
            factor = a * identity + b * gram + c * _product(gram, gram)
            product = factor if product is None else _product(factor, product)
            if number < len(steps):
                gram = _product(_product(factor, gram), factor)
        return _product(product, values), None

    # Parts of one length are one scan, whose temporaries are those of one part.
    for _, parts in itertools.groupby(_parts(polynomials, restarts), len):
        values = jax.lax.scan(part, values, jnp.asarray(list(parts), values.dtype))[0]
    return values


def _product(left: Float[Array, "*n m k"], right: Float[Array, "*n k l"]) -> Float[Array, "*n m l"]:
    # Unless told otherwise accelerators round fp32 factors to bf16, or to something in between.
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return jnp.matmul(left, right, precision=precision)


def _parts(steps: Sequence, restarts: Sequence[int]) -> list[Sequence]:
    """The steps between restarts."""
    borders = sorted({0, len(steps), *(restart for restart in restarts if restart < len(steps))})
    return [steps[first:last] for first, last in itertools.pairwise(borders)]
