"""Sets of polynomials for Newton-Schulz iterations, and what they make of a singular value.

A step maps every singular value s to an odd polynomial of it. Iterations start from a matrix of norm one, so that s
lies in [0, 1].
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.errors import InputError

Polynomials = Sequence[Sequence[float]]
"""The coefficients (a, b, c) of a s + b s^3 + c s^5, a step."""

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_CUSHION = 0.02407
"""A step does not aim lower than this fraction of the interval's upper end: below, it would have to oscillate too much
above for the products of low precision."""
_PROMOTION, _SUPPRESSION = (1.875, -1.25, 0.375), (0.0, 2.5, -1.5)


def response(polynomials: Polynomials, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Singular values after the iteration that were `values` before it (float64)."""
    values = np.asarray(values, np.float64)
    for coefficients in polynomials:
        values = sum(number * values ** (2 * place + 1) for place, number in enumerate(coefficients))
    return values


def optimal_quintics(lower: float, steps: int, safety: float = 1.0) -> Polynomials:
    """Polar Express (arXiv 2505.16932) for singular values in [lower, 1]: of all compositions of so many odd quintics
    (bar the cushion) the one that ends nearest to one in the worst case; all of them for an interval wider by `safety`.
    """
    chosen, upper = [], 1.0
    for _ in range(steps):
        coefficients = _nearest_to_one(max(lower, _CUSHION * upper), upper)
        if lower < _CUSHION * upper:
            ends = response([coefficients], np.array([lower, upper]))
            coefficients = tuple(2 / float(ends.sum()) * number for number in coefficients)
        chosen.append(coefficients)
        lower = float(response([coefficients], np.array([lower]))[0])
        upper = 2 - lower
    return _widened(chosen, safety)


def _nearest_to_one(lower: float, upper: float) -> tuple[float, ...]:
    """The odd quintic nearest to one on [lower, upper], by the exchange of its four points of greatest error (Remez
    1934)."""
    powers, signs, error = np.array([1, 3, 5]), np.array([[1], [-1], [1], [-1]]), np.inf
    points = (lower + upper - (upper - lower) * np.cos(np.pi * np.arange(4) / 3)) / 2
    while True:
        *coefficients, found = np.linalg.solve(np.concatenate([points[:, None] ** powers, signs], axis=1), np.ones(4))
        if abs(found - error) < 1e-13 + 1e-10 * abs(found):
            return tuple(map(float, coefficients))
        error, slopes = found, powers * coefficients
        inner = np.sqrt(np.sort(np.roots(slopes[::-1]).real))  # all extrema of the best one lie inside
        points = np.array([lower, *inner, upper])


def _widened(polynomials: Polynomials, safety: float) -> Polynomials:
    return tuple(
        tuple(number / safety ** (2 * place + 1) for place, number in enumerate(coefficients))
        for coefficients in polynomials
    )


POLYNOMIALS: Mapping[str, Polynomials] = {
    # Jordan 2024: fast, but leaves singular values anywhere between 0.7 and 1.2.
    "keller_jordan": ((3.4445, -4.7750, 2.0315),),
    # Amsel et al., arXiv 2505.16932: each step is the best for the interval that the one before leaves.
    "polar_express": _widened(_POLAR_EXPRESS, 1.05),
    # Ours: the same with less safety, which bf16 products still stay within: what lies above 1e-3 of the norm comes out
    # in [0.9, 1.13]. From a Schatten norm the cosine with U V^T is .995 and more on spectra down to 1 / 1,024.
    "polar_close": optimal_quintics(1e-3, 5, safety=1.02),
    # Fan et al., arXiv 2605.19282 ("Pion"): large singular values go to one, small ones to zero; for towers whose
    # gradients are low-rank and noisy.
    "high_pass": (_PROMOTION,) * 3 + (_SUPPRESSION,) * 2,
}
"""Polynomials, one a step; the last one serves all further steps."""


def polynomials_of(name: str, steps: int) -> Polynomials:
    """The first `steps` polynomials of the named set; raises InputError on an unknown name."""
    if name not in POLYNOMIALS:
        raise InputError("Newton-Schulz coefficients", repr(name), f"one of {sorted(POLYNOMIALS)}")
    chosen = POLYNOMIALS[name]
    return tuple(chosen[min(step, len(chosen) - 1)] for step in range(steps))
