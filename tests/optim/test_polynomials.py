"""The polynomial sets: what they do to singular values, and how a set is cut and prolonged."""

import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.optim.newton_schulz import orthogonalize
from wallwm_jax.optim.polynomials import _POLAR_EXPRESS, POLYNOMIALS, optimal_quintics, polynomials_of, response


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_a_matrix_gets_the_responses_of_its_singular_values(name):
    """A diagonal matrix stays one, with the polynomial of each entry in its place (1e-4 in fp32); and no singular
    value leaves [0, 1.3)."""
    values = np.array([0.9, 0.4, 0.15, 0.05])
    values /= np.linalg.norm(values)
    chosen = polynomials_of(name, 5)
    found = np.asarray(orthogonalize(jnp.asarray(np.diag(values)[None], jnp.float32), chosen))[0]
    np.testing.assert_allclose(found, np.diag(response(chosen, values)), atol=1e-4)
    everywhere = response(chosen, np.linspace(0, 1, 500))
    assert everywhere.min() >= 0 and everywhere.max() < 1.3


def test_the_published_coefficients_are_found_again():
    """The search gives what Polar Express lists for singular values from 1e-3 on; and with as many steps a higher
    lower end means a smaller error."""
    np.testing.assert_allclose(optimal_quintics(1e-3, 6), _POLAR_EXPRESS[:6], rtol=1e-3)
    errors = []
    for lower in (1e-3, 1.5e-3, 3e-3):
        values = np.geomspace(lower, 1.0, 2000)
        errors.append(np.abs(response(optimal_quintics(lower, 5), values) - 1).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_what_our_set_is_for():
    """From a Schatten norm of one the cosine of five steps with U V^T is .995 and more on spectra of 1 / i and down to
    exp(-5) and of a random square matrix, up to 1,024 rows, where Polar Express from the usual norm has .983."""
    for rows in (64, 256, 1024):
        index = np.arange(1, rows + 1)
        gauss = np.linalg.svd(np.random.default_rng(0).normal(size=(rows, rows)), compute_uv=False)
        for values in (1 / index, np.exp(-5 * index / rows), gauss):
            assert cosine_with_ones("polar_close", values, 8) > 0.995
    assert cosine_with_ones("polar_express", 1 / np.arange(1, 1025), 2) < 0.983
    assert response(polynomials_of("polar_close", 5), np.linspace(0, 1, 5000)).max() < 1.13


def cosine_with_ones(name, values, order):
    found = response(polynomials_of(name, 5), values / np.sum(values**order) ** (1 / order))
    return found.mean() / np.sqrt(np.mean(found**2))


def test_small_singular_values_are_raised_or_suppressed():
    """Polar Express brings all of [0.01, 1] near one; the high pass sends 0.1 towards zero and keeps 0.6 and more."""
    near = response(polynomials_of("polar_express", 7), np.linspace(0.01, 1, 200))
    assert near.min() > 0.9
    low, high = response(polynomials_of("high_pass", 5), np.array([0.1, 0.6]))
    assert low < 0.3 and high > 0.95


def test_sets_are_cut_and_prolonged():
    """One polynomial serves all steps; the last one of several serves all further ones; unknown names are refused."""
    assert polynomials_of("keller_jordan", 3) == POLYNOMIALS["keller_jordan"] * 3
    assert polynomials_of("polar_express", 2) == POLYNOMIALS["polar_express"][:2]
    assert polynomials_of("polar_express", 9)[6:] == (POLYNOMIALS["polar_express"][-1],) * 3
    with pytest.raises(InputError, match="quintic"):
        polynomials_of("quintic", 5)
