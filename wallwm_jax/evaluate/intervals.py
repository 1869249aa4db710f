"""Confidence intervals of what few episodes can say."""

import math
from collections.abc import Sequence

import numpy as np

from wallwm_jax.core.errors import InputError

Z = 1.959963984540054
"""Standard deviations of a two-sided 95 % interval of the normal distribution."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval (95 %) of a share; (0, 1) if nothing was tried.

    Raises:
        InputError: not 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise InputError("successes", f"{successes} of {trials}", "0 <= successes <= trials")
    if not trials:
        return 0.0, 1.0
    share, squared = successes / trials, Z * Z / trials
    centre = (share + squared / 2) / (1 + squared)
    half = Z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials)) / (1 + squared)
    # The exact bounds at no and at full success are 0 and 1; rounding must not put them beside.
    low, high = (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)
    return low, high


def bootstrap(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of the mean: episodes drawn again with replacement. The same values and
    seed give the same interval.

    Raises:
        InputError: there are no values.
    """
    if not len(values):
        raise InputError("values of a bootstrap", "none", "at least one")
    generator = np.random.Generator(np.random.Philox(key=[seed, len(values)]))
    chosen = generator.integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(np.asarray(values, np.float64)[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
