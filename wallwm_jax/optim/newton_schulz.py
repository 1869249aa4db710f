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

SMALL_ROWS, MUCH_WIDER = 128, 4
"""Below so many rows CPUs take the direct iteration faster than the one on Gram matrices, whatever the operations,
unless the matrix is so many times wider than high; and symmetric products whole faster than by halves."""
RESTART_EVERY: Mapping[str, int] = {"bfloat16": 2, "float32": 5}
"""Most steps between two Gram matrices that are formed from the matrices themselves, by the dtype of the products."""


def safe_restarts(dtype: str, steps: int, exact_steps: int = 0) -> tuple[int, ...]:
    """The steps after which the Gram matrix is formed anew: in bf16 after 1, 3, 5, ..., in fp32 after 5, 10, ...

    Less often, errors of bf16 products grow without bound on spectra that decay: restarts after 1 and 3 alone leave a
    spectral norm of 2.2 after 8 steps and 7e9 after 10. Those of fp32 products stay below 3e-3 on all spectra that were
    tried. The `exact_steps` of bf16 are taken on the matrices, so that restarts are counted from their end.
    """
    every = RESTART_EVERY[dtype]
    first = exact_steps if exact_steps else every - 1 if dtype == "bfloat16" else every
    return tuple(range(first, steps, every))


def orthogonalize(
    matrices: Float[Array, "*n m k"],
    polynomials: Polynomials,
    dtype: DTypeLike = jnp.float32,
    epsilon: float = 1e-8,
    restarts: Sequence[int] | None = None,
    norm: str = "frobenius",
    halves: bool = False,
    exact_steps: int = 0,
) -> Float[Array, "*n m k"]:
    """Every matrix with its singular values driven towards one; needs m <= k to be cheap, holds for any shape.

    Args:
        polynomials: three coefficients a step (`polynomials.polynomials_of`).
        dtype: of the products. Those in fp32 are not rounded, on no device.
        restarts: None takes the steps on the matrices; numbers take them on Gram matrices, which are formed anew after
            that many steps (`safe_restarts`).
        norm: what is one at the start, and no singular value above it: "frobenius", or "schatten", the 8-norm of the
            singular values, which is nearer to the largest of them and falls off from the first step's products.
        halves: symmetric products without their lower left block.
        exact_steps: first steps of bf16 products that are taken with factors split in two, to about 2^-16 of them.
            What is rounded to bf16 before or in the first steps has noise in all directions, which these steps
            multiply by a thousand: a matrix of rank 1 to 16 comes out with a cosine of .36 to .90 with U V^T without
            exact steps, .87 to .96 with one and .99 with two. fp32 products need none.
    """
    values, schatten = _normalised(matrices, epsilon), norm == "schatten"
    exact = exact_steps if jnp.dtype(dtype) == jnp.bfloat16 else 0
    for number, coefficients in enumerate(polynomials[:exact]):
        values = _exact_step(values, jnp.asarray(coefficients, jnp.float32), schatten=schatten and number == 0)
    values = values.astype(dtype)
    restarts = None if restarts is None else [restart - exact for restart in restarts]
    numbered = list(enumerate(_parts(polynomials[exact:], restarts), start=exact))
    run = functools.partial(_part, schatten=schatten, halves=halves)
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
    m: int,
    k: int,
    polynomials: Polynomials,
    restarts: Sequence[int] | None = None,
    halves: bool = False,
    exact_steps: int = 0,
) -> int:
    """Floating-point operations of `orthogonalize` on one m x k matrix, m <= k: those of its matrix products."""
    whole, symmetric = 2 * m * m * m, product_flops(m, m, halves)
    exact = min(exact_steps, len(polynomials))
    total = exact * (10 * m * m * k + 2 * whole)
    restarts = None if restarts is None else [restart - exact for restart in restarts]
    for part in _parts(polynomials[exact:], restarts):
        further = len(part) - 1
        total += product_flops(m, k, halves) + 2 * m * m * k
        total += (len(part) + further) * symmetric + 2 * further * whole
    return total


def cheapest_restarts(
    m: int, k: int, polynomials: Polynomials, restarts: Sequence[int], halves: bool = False
) -> Sequence[int] | None:
    """`restarts` if the iteration on Gram matrices is the faster one, or else None for the direct one.

    Of large matrices that is the one with fewer operations; of small ones (`SMALL_ROWS`) the direct one, unless they
    are `MUCH_WIDER` than high.
    """
    by_gram, direct = (iteration_flops(m, k, polynomials, chosen, halves) for chosen in (restarts, None))
    if m < SMALL_ROWS and k < MUCH_WIDER * m:
        return None
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


def _exact_step(
    values: Float[Array, "*n m k"], coefficients: Float[Array, "3"], *, schatten: bool
) -> Float[Array, "*n m k"]:
    """One step on fp32 matrices by products of bf16 factors: each is the sum of two, and what the two small parts make
    of each other is left out."""
    high, low = _two_parts(values)
    mixed = _summed_in_fp32(high, low.mT)
    matrix = _summed_in_fp32(high, high.mT) + mixed + mixed.mT
    upper, rest = _two_parts(matrix)
    mixed = _summed_in_fp32(upper, rest)
    square = _summed_in_fp32(upper, upper) + mixed + mixed.mT
    if schatten:
        whole = Symmetric(square, square[..., :0])
        coefficients = _rescaled(coefficients, whole, jnp.asarray(True))
    constant, linear, quadratic = coefficients
    upper, rest = _two_parts(linear * matrix + quadratic * square)
    done = _summed_in_fp32(upper, high) + _summed_in_fp32(upper, low) + _summed_in_fp32(rest, high)
    return constant * values + done


def _two_parts(values: Float[Array, "*n m k"]) -> tuple[Array, Array]:
    high = jax.lax.reduce_precision(values, 8, 7)  # XLA may leave out a conversion to bf16 and back, but not this
    return high.astype(jnp.bfloat16), (values - high).astype(jnp.bfloat16)


def _summed_in_fp32(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


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
    borders = sorted({0, len(steps), *(restart for restart in restarts if 0 < restart < len(steps))})
    return [steps[first:last] for first, last in itertools.pairwise(borders)]
