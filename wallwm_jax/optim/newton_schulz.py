"""Newton-Schulz orthogonalisation of batches of matrices: the inner loop of Muon.

X <- a X + (b A + c A A) X with A = X X^T, which drives every singular value of X towards one.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from wallwm_jax.core.errors import InputError

Coefficients = Sequence[tuple[float, float, float]]

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_SAFETY = 1.05
"""Widens the interval on which each Polar Express step contracts, so that bf16 rounding cannot leave it."""

COEFFICIENTS: Mapping[str, Coefficients] = {
    "keller_jordan": ((3.4445, -4.7750, 2.0315),),
    "polar_express": tuple((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS),
}
"""Polynomials (a, b, c), one a step; the last one serves all further steps."""


def coefficients_of(name: str, steps: int) -> Coefficients:
    """`steps` polynomials of the named set; raises InputError on an unknown name."""
    if name not in COEFFICIENTS:
        raise InputError("Newton-Schulz coefficients", repr(name), f"one of {sorted(COEFFICIENTS)}")
    chosen = COEFFICIENTS[name]
    return tuple(chosen[min(step, len(chosen) - 1)] for step in range(steps))


def orthogonalize(
    matrices: Float[Array, "n m k"], coefficients: Coefficients, dtype: DTypeLike = jnp.float32, epsilon: float = 1e-8
) -> Float[Array, "n m k"]:
    """Every matrix with its singular values driven towards one; needs m <= k to be cheap, holds for any shape.

    `dtype` is that of the products. The Frobenius norm is taken in fp32 after division by the largest entry, because
    the plain sum of squares overflows at entries of 1e20 and would return an update of exactly zero.
    """
    values = matrices.astype(jnp.float32)
    largest = jnp.max(jnp.abs(values), axis=(1, 2), keepdims=True)
    largest = jnp.where(largest > 0, largest, 1.0)
    values = values / largest
    norm = jnp.sqrt(jnp.sum(jnp.square(values), axis=(1, 2), keepdims=True))
    values = (values / (norm + epsilon / largest)).astype(dtype)

    def polynomial(values: Array, abc: Array) -> tuple[Array, None]:
        a, b, c = abc
        gram = values @ values.mT
        return a * values + (b * gram + c * gram @ gram) @ values, None

    # A scan keeps one copy of the products a shape in the program, which is what compiling a small model costs.
    values, _ = jax.lax.scan(polynomial, values, jnp.asarray(coefficients, dtype))
    return values.astype(matrices.dtype)
