"""Newton-Schulz orthogonalisation of batches of matrices: the inner loop of Muon.

The steps are X <- (a I + b A + c A A) X with A = X X^T, which drives every singular value of X towards one. They can be
taken on X itself, or on the smaller Gram matrix A and then be applied to X at once (`restarts`), which costs less for a
wide X.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from wallwm_jax.optim.polynomials import Polynomials
from wallwm_jax.optim.symmetric import (
    Symmetric,
    combined,
    congruent,
    gram,
    plus_identity,
    product,
    product_flops,
    squared_norm,
    times,
)

SAFE_RESTARTS: Mapping[str, tuple[int, ...]] = {"bfloat16": (1, 3), "float32": (5,)}
"""Steps after which the Gram matrix is formed anew, by the dtype of the products. Less often, errors of bf16 products
grow without bound on spectra that decay; those of fp32 products stay below 3e-3 on all that were tried."""


def orthogonalize(
    matrices: Float[Array, "*n m k"],
    polynomials: Polynomials,
    dtype: DTypeLike = jnp.float32,
    epsilon: float = 1e-8,
    restarts: Sequence[int] | None = None,
    norm: str = "frobenius",
    halves: bool = False,
) -> Float[Array, "*n m k"]:
    """Every matrix with its singular values driven towards one; needs m <= k to be cheap, holds for any shape.

    Args:
        polynomials: three coefficients a step (`polynomials.polynomials_of`).
        dtype: of the products. Those in fp32 are not rounded, on no device.
        restarts: None takes the steps on the matrices; numbers take them on Gram matrices, which are formed anew after
            that many steps (`SAFE_RESTARTS`).
        norm: what is one at the start, and no singular value above it: "frobenius", or "schatten", the 8-norm of the
            singular values, which is nearer to the largest of them and falls off from the first step's products.
        halves: symmetric products without their lower left block.
    """
    values = _normalised(matrices, epsilon).astype(dtype)
    numbered = list(enumerate(_parts(polynomials, restarts)))
    run = functools.partial(_part, schatten=norm == "schatten", halves=halves)
    # Parts of one length are one scan: one copy of the products in the program, and the temporaries of one part.
    for _, alike in itertools.groupby(numbered, lambda pair: len(pair[1])):
        numbers, steps = zip(*alike, strict=True)
        turns = jnp.asarray([number == 0 for number in numbers]), jnp.asarray(steps, jnp.float32)
        values, _ = jax.lax.scan(run, values, turns)
    return values.astype(matrices.dtype)


def in_turn(
    run: Callable[[Float[Array, "*size m k"]], Float[Array, "*size m k"]],
    matrices: Float[Array, "n m k"],
    turns: int | Int[Array, ""],
    size: int = 1,
) -> Float[Array, "n m k"]:
    """`run` on the first `turns * size` matrices, `size` at a time and in their place: one turn's temporaries. A single
    matrix comes without the stacking axis, since products of matrices are faster than such of batches."""
    if isinstance(turns, int) and turns == 1 and size == len(matrices):
        return run(matrices[0])[None] if size == 1 else run(matrices)

    def turn(number: Array, values: Array) -> Array:
        chosen = jax.lax.dynamic_slice_in_dim(values, number * size, size)
        done = run(chosen[0])[None] if size == 1 else run(chosen)
        return jax.lax.dynamic_update_slice_in_dim(values, done.astype(values.dtype), number * size, 0)

    return jax.lax.fori_loop(0, turns, turn, matrices)


def iteration_flops(
    m: int, k: int, polynomials: Polynomials, restarts: Sequence[int] | None = None, halves: bool = False
) -> int:
    """Floating-point operations of `orthogonalize` on one m x k matrix, m <= k: those of its matrix products."""
    whole, symmetric = 2 * m * m * m, product_flops(m, m, halves)
    total = 0
    for part in _parts(polynomials, restarts):
        further = len(part) - 1
        total += product_flops(m, k, halves) + 2 * m * m * k
        total += (len(part) + further) * symmetric + 2 * further * whole
    return total


def cheapest_restarts(
    m: int, k: int, polynomials: Polynomials, restarts: Sequence[int], halves: bool = False
) -> Sequence[int] | None:
    """`restarts` if the iteration on Gram matrices takes fewer operations than the direct one, or else None."""
    by_gram, direct = (iteration_flops(m, k, polynomials, chosen, halves) for chosen in (restarts, None))
    return restarts if by_gram < direct else None


def _normalised(matrices: Float[Array, "*n m k"], epsilon: float) -> Float[Array, "*n m k"]:
    """In fp32, with Frobenius norm one. The norm is taken after division by the largest entry, because the plain sum of
    squares overflows at entries of 1e20 and would return an update of exactly zero."""
    values = matrices.astype(jnp.float32)
    largest = jnp.max(jnp.abs(values), axis=(-2, -1), keepdims=True)
    largest = jnp.where(largest > 0, largest, 1.0)
    values = values / largest
    norm = jnp.sqrt(jnp.sum(jnp.square(values), axis=(-2, -1), keepdims=True))
    return values / (norm + epsilon / largest)


def _part(values: Float[Array, "*n m k"], turn: Any, *, schatten: bool, halves: bool) -> tuple[Array, None]:
    """The steps up to the next restart. All polynomials of a Gram matrix commute and are symmetric, so that a step on
    it is P A P; a single step needs no Gram matrix but its own."""
    first, steps = turn
    matrix, done = gram(values, halves), None
    for number, coefficients in enumerate(steps, start=1):
        square = times(matrix, matrix)
        if schatten and number == 1:
            coefficients = _rescaled(coefficients, square, first)
        constant, *others = coefficients.astype(values.dtype)
        factor = combined(others, [matrix, square])
        if len(steps) == 1:
            return constant * values + product(factor.whole, values), None
        factor = plus_identity(constant, factor)
        done = factor.whole if done is None else product(factor.whole, done)
        if number < len(steps):
            matrix = congruent(factor, matrix)
    return product(done, values), None


def _rescaled(coefficients: Float[Array, "3"], square: Symmetric, first: Array) -> Float[Array, "3 *n 1 1"]:
    """Of the same polynomial after a division by the 8-norm of the singular values, in the first turn; `square` is the
    square of the Gram matrix, whose Frobenius norm is the norm's fourth power."""
    total = squared_norm(square)
    factor = jnp.where(first & (total > 0), total, 1.0) ** -0.125
    return jnp.stack([number * factor ** (2 * place + 1) for place, number in enumerate(coefficients)])


def _parts(steps: Sequence, restarts: Sequence[int] | None) -> list[Sequence]:
    """The steps between restarts; None restarts after every step."""
    if restarts is None:
        restarts = range(len(steps))
    borders = sorted({0, len(steps), *(restart for restart in restarts if restart < len(steps))})
    return [steps[first:last] for first, last in itertools.pairwise(borders)]
