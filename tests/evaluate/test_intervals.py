"""Intervals against published values and their own definition."""

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.intervals import bootstrap, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe (1998), table I, method 3 (the score method without continuity correction), to its four digits.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_stays_in_its_range():
    """Failures mirror successes; the ends are exact; nothing tried says nothing."""
    for successes in range(12):
        low, high = wilson(successes, 11) if successes < 12 else (0, 1)
        mirrored = wilson(11 - successes, 11)
        assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))
        assert 0 <= low <= successes / 11 <= high <= 1
    assert wilson(0, 0) == (0.0, 1.0) and wilson(5, 5)[1] == 1.0
    with pytest.raises(InputError, match="successes"):
        wilson(3, 2)


def test_bootstrap_covers_the_mean_and_narrows_with_more_values():
    """Close to the normal interval for many values, a point for equal ones, the same for the same values."""
    values = np.random.default_rng(0).normal(50, 10, 400)
    low, high = bootstrap(values.tolist())
    # 2,000 draws put a percentile within a few hundredths of a standard error of the normal interval's bound.
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15)
    assert bootstrap([7.0, 7.0]) == (7.0, 7.0) and bootstrap(values.tolist()) == (low, high)
    with pytest.raises(InputError, match="bootstrap"):
        bootstrap([])
