"""Sets of polynomials for Newton-Schulz iterations, and what they make of a singular value.

A step maps every singular value s to a s + b s^3 + c s^5. Iterations start from a matrix of Frobenius norm one, so that
s lies in [0, 1].
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.errors import InputError

Polynomials = Sequence[tuple[float, float, float]]

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


def optimal_polynomials(lower: float, steps: int) -> Polynomials:
    """Polar Express (arXiv 2505.16932) for singular values in [lower, 1]: of all compositions of `steps` odd quintics
    (bar the cushion) the one that ends nearest to one in the worst case. Without the safety factor."""
    chosen, upper = [], 1.0
    for _ in range(steps):
        a, b, c = _best_quintic(max(lower, _CUSHION * upper), upper)
        if lower < _CUSHION * upper:
            ends = [a * s + b * s**3 + c * s**5 for s in (lower, upper)]
            a, b, c = (2 / sum(ends) * number for number in (a, b, c))
        chosen.append((a, b, c))
        lower = a * lower + b * lower**3 + c * lower**5
        upper = 2 - lower
    return tuple(chosen)


def _best_quintic(lower: float, upper: float) -> tuple[float, float, float]:
    """The odd quintic nearest to one on [lower, upper], by the exchange of its four points of greatest error."""
    inner, error = np.array([3 * lower + upper, lower + 3 * upper]) / 4, np.inf
    while True:
        points = np.array([lower, *inner, upper])
        system = np.stack([points, points**3, points**5, [1.0, -1.0, 1.0, -1.0]], axis=1)
        a, b, c, found = np.linalg.solve(system, np.ones(4))
        if abs(found - error) < 1e-15 + 1e-12 * abs(found):
            return float(a), float(b), float(c)
        error = found
        inner = np.sqrt((-3 * b + np.array([-1, 1]) * np.sqrt(9 * b * b - 20 * a * c)) / (10 * c))


def _safe(polynomials: Polynomials) -> Polynomials:
    return tuple((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in polynomials)


POLYNOMIALS: Mapping[str, Polynomials] = {
    # Jordan 2024: fast, but leaves singular values anywhere between 0.7 and 1.2.
    "keller_jordan": ((3.4445, -4.7750, 2.0315),),
    # Amsel et al., arXiv 2505.16932: each step is the best for the interval that the one before leaves.
    "polar_express": _safe(_POLAR_EXPRESS),
    # Ours: the same, aimed at singular values from 1.5e-3 of the norm on rather than from 1e-3. What lies above comes
    # out in [0.95, 1.05] rather than [0.88, 1.12]; what lies far below is raised less.
    "polar_close": _safe(optimal_polynomials(1.5e-3, 5)),
    # Fan et al., arXiv 2605.19282 ("Pion"): large singular values go to one, small ones to zero; for towers whose
    # gradients are low-rank and noisy.
    "high_pass": (_PROMOTION,) * 3 + (_SUPPRESSION,) * 2,
}
"""Polynomials (a, b, c), one a step; the last one serves all further steps."""


def polynomials_of(name: str, steps: int) -> Polynomials:
    """The first `steps` polynomials of the named set; raises InputError on an unknown name."""
    if name not in POLYNOMIALS:
        raise InputError("Newton-Schulz coefficients", repr(name), f"one of {sorted(POLYNOMIALS)}")
    chosen = POLYNOMIALS[name]
    return tuple(chosen[min(step, len(chosen) - 1)] for step in range(steps))


def response(polynomials: Polynomials, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Singular values after the iteration that were `values` before it (float64)."""
    values = np.asarray(values, np.float64)
    for a, b, c in polynomials:
        values = values * (a + b * values**2 + c * values**4)
    return values
