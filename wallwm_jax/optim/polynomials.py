"""Sets of polynomials for Newton-Schulz iterations, and what they make of a singular value.

A step maps every singular value s to an odd polynomial of it. Iterations start from a matrix of norm one, so that s
lies in [0, 1].
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.errors import InputError

Polynomials = Sequence[Sequence[float]]
"""The coefficients of s, s^3, s^5, ... of every step."""

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


def optimal_polynomials(lower: float, degrees: Sequence[int], cushion: float = _CUSHION) -> Polynomials:
    """Polar Express (arXiv 2505.16932) for singular values in [lower, 1]: of all compositions of odd polynomials of
    these degrees (bar the cushion) the one that ends nearest to one in the worst case. Without the safety factor."""
    chosen, upper = [], 1.0
    for degree in degrees:
        coefficients = _nearest_to_one(max(lower, cushion * upper), upper, (degree + 1) // 2)
        if lower < cushion * upper:
            ends = response([coefficients], np.array([lower, upper]))
            coefficients = tuple(2 / float(ends.sum()) * number for number in coefficients)
        chosen.append(coefficients)
        lower = float(response([coefficients], np.array([lower]))[0])
        upper = 2 - lower
    return tuple(chosen)


def _nearest_to_one(lower: float, upper: float, count: int) -> tuple[float, ...]:
    """The odd polynomial of `count` coefficients nearest to one on [lower, upper], by the exchange of its points of
    greatest error (Remez 1934)."""
    powers, error = 2 * np.arange(count) + 1, np.inf
    points = (lower + upper - (upper - lower) * np.cos(np.pi * np.arange(count + 1) / count)) / 2
    while True:
        system = np.concatenate([points[:, None] ** powers, (-1.0) ** np.arange(count + 1)[:, None]], axis=1)
        *coefficients, found = np.linalg.solve(system, np.ones(count + 1))
        if abs(found - error) < 1e-13 + 1e-10 * abs(found):
            return tuple(map(float, coefficients))
        error, slopes = found, powers * coefficients
        inner = np.sqrt(np.sort(np.roots(slopes[::-1]).real))  # all extrema of the best one lie inside
        points = np.array([lower, *inner, upper])


def _safe(polynomials: Polynomials) -> Polynomials:
    return tuple(
        tuple(number / _SAFETY ** (2 * place + 1) for place, number in enumerate(coefficients))
        for coefficients in polynomials
    )


POLYNOMIALS: Mapping[str, Polynomials] = {
    # Jordan 2024: fast, but leaves singular values anywhere between 0.7 and 1.2.
    "keller_jordan": ((3.4445, -4.7750, 2.0315),),
    # Amsel et al., arXiv 2505.16932: each step is the best for the interval that the one before leaves.
    "polar_express": _safe(_POLAR_EXPRESS),
    # Ours: the same, aimed at singular values from 1.5e-3 of the norm on rather than from 1e-3. What lies above comes
    # out in [0.95, 1.05] rather than [0.88, 1.12]; what lies far below is raised less.
    "polar_close": _safe(optimal_polynomials(1.5e-3, (5,) * 5)),
    # Ours: three steps of higher degree, which take 13 products where five quintics take 15, for singular values from
    # 2.3e-3 of the Schatten norm on; what lies above comes out in [0.9, 1.1].
    "polar_short": optimal_polynomials(2.3e-3, (9, 9, 13), cushion=0.0),
    # Fan et al., arXiv 2605.19282 ("Pion"): large singular values go to one, small ones to zero; for towers whose
    # gradients are low-rank and noisy.
    "high_pass": (_PROMOTION,) * 3 + (_SUPPRESSION,) * 2,
}
"""Polynomials, one a step; the last one serves all further steps."""
FULL_PRECISION = frozenset({"polar_short"})
"""Sets whose coefficients of hundreds, of alternating sign, need products in fp32."""
_STEPS = {"polar_short": 3}


def polynomials_of(name: str, steps: int | None = None) -> Polynomials:
    """The first `steps` polynomials of the named set, by default as many as it is made for: three of "polar_short",
    five of the others. Raises InputError on an unknown name."""
    if name not in POLYNOMIALS:
        raise InputError("Newton-Schulz coefficients", repr(name), f"one of {sorted(POLYNOMIALS)}")
    chosen, steps = POLYNOMIALS[name], _STEPS.get(name, 5) if steps is None else steps
    return tuple(chosen[min(step, len(chosen) - 1)] for step in range(steps))
