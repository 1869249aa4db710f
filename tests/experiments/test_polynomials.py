"""The curves of the figure of polynomials."""

import numpy as np
import pytest

from experiments.benchmarks.polynomials import measured_response
from wallwm_jax.optim.polynomials import POLYNOMIALS, polynomials_of, response

VALUES, DTYPES = np.geomspace(1e-4, 0.999, 9), ("float32", "bfloat16")


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_what_is_measured_is_what_the_polynomials_say(name):
    """In fp32 the values that the composed polynomials have (1e-3: they multiply rounding by up to 2,000); with bf16
    products within .15 of them from 1e-2 on, and not the very same."""
    chosen = polynomials_of(name, 5)
    exact, single, half = response(chosen, VALUES), *(measured_response(chosen, VALUES, d) for d in DTYPES)
    np.testing.assert_allclose(single, exact, atol=1e-3)
    np.testing.assert_allclose(half[VALUES > 1e-2], exact[VALUES > 1e-2], atol=0.15)
    assert np.abs(half - exact).max() > 1e-3
