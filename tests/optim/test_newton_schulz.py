"""Orthogonalisation: near the polar factor on every spectrum and precision, direct or on Gram matrices, at its cost."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import Literal

from wallwm_jax.core.flops import inner_jaxprs, matmul_flops
from wallwm_jax.optim.newton_schulz import SAFE_RESTARTS, cheapest_restarts, iteration_flops, orthogonalize
from wallwm_jax.optim.polynomials import polynomials_of, response

POLAR = polynomials_of("polar_express", 5)


def matrix(spectrum, m=96, k=160):
    """Two m x k matrices with a spectrum that is flat, falls as a power or exponentially; and their U V^T."""
    left, singular, right = np.linalg.svd(np.random.default_rng(0).normal(size=(2, m, k)), full_matrices=False)
    index, both = np.arange(1, m + 1), np.ones((2, 1))
    singular = {"gauss": singular, "power": index**-1.0 * both, "exponential": np.exp(-5.0 * index / m) * both}
    return jnp.asarray((left * singular[spectrum][:, None, :]) @ right, jnp.float32), left @ right


def as_on_a_tpu(function):
    """`function` with every product as a TPU takes it by default: factors rounded to bf16, sums in fp32."""

    def evaluate(jaxpr, constants, arguments):
        known = {
            **dict(zip(jaxpr.constvars, constants, strict=True)),
            **dict(zip(jaxpr.invars, arguments, strict=True)),
        }
        for equation in jaxpr.eqns:
            given = [atom.val if isinstance(atom, Literal) else known[atom] for atom in equation.invars]
            known.update(zip(equation.outvars, outcome(equation, given), strict=True))
        return [atom.val if isinstance(atom, Literal) else known[atom] for atom in jaxpr.outvars]

    def outcome(equation, given):
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            given = [factor.astype(jnp.bfloat16).astype(jnp.float32) for factor in given]
        if name == "scan":
            fixed = parameters["num_consts"]
            body, carry, turns = parameters["jaxpr"], given[fixed], given[fixed + 1 :]
            assert parameters["num_carry"] == 1
            for turn in range(parameters["length"]):
                (carry,) = evaluate(body.jaxpr, body.consts, [*given[:fixed], carry, *(part[turn] for part in turns)])
            return [carry]
        if "jaxpr" in parameters:
            inner = parameters["jaxpr"]
            return evaluate(inner.jaxpr, inner.consts, given)
        found = equation.primitive.bind(*given, **parameters)
        return found if equation.primitive.multiple_results else [found]

    def run(*arguments):
        closed = jax.make_jaxpr(function)(*arguments)
        return evaluate(closed.jaxpr, closed.consts, arguments)[0]

    return run


@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "tpu"])
@pytest.mark.parametrize("spectrum", ["gauss", "power", "exponential"])
def test_it_comes_close_to_the_polar_factor(spectrum, precision, gram):
    """Five steps of our set from a Schatten norm have cosine .995 or more with U V^T, and no singular value above 1.2,
    on a flat spectrum and on those that fall as 1 / i and to exp(-5), with symmetric products whole or by halves;
    Optax's default polynomial stays below that."""
    values, polar = matrix(spectrum)
    for name, norm, halves in (
        ("polar_close", "schatten", False),
        ("polar_close", "schatten", True),
        ("keller_jordan", "frobenius", False),
    ):
        found = taken_as(precision, gram, values, polynomials=polynomials_of(name, 5), norm=norm, halves=halves)
        ours = name == "polar_close"
        assert (cosine(found, polar) >= 0.995) == ours, (name, cosine(found, polar))
        assert np.linalg.norm(found, 2, axis=(1, 2)).max() <= (1.2 if ours else 1.3)


def taken_as(precision, gram, values, **options):
    """`orthogonalize` with products of "float32", of "bfloat16", or as a TPU takes those of fp32 by default."""
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    restarts = SAFE_RESTARTS["float32" if precision == "float32" else "bfloat16"] if gram else None
    run = functools.partial(orthogonalize, dtype=dtype, restarts=restarts, **options)
    return np.asarray((as_on_a_tpu(run) if precision == "tpu" else run)(values), np.float64)


def cosine(found, polar):
    return (found * polar).sum() / (np.linalg.norm(found) * np.linalg.norm(polar))


@pytest.mark.parametrize("restarts", [None, SAFE_RESTARTS["float32"]])
@pytest.mark.parametrize("shape", [(96, 160), (128, 128), (128, 512)])
@pytest.mark.parametrize("spectrum", ["gauss", "power", "exponential"])
def test_a_schatten_norm_needs_no_products_of_its_own(spectrum, shape, restarts):
    """Whole and by halves, on the matrices and on their Gram matrices, in fp32: what the polynomials make of the
    singular values after a division by their 8-norm, to 3e-3."""
    values, _ = matrix(spectrum, *shape)
    polynomials = polynomials_of("polar_close", 5)
    left, singular, right = np.linalg.svd(np.asarray(values, np.float64), full_matrices=False)
    norms = np.sum(singular**8, axis=1, keepdims=True) ** (1 / 8)
    expected = (left * np.stack([response(polynomials, row) for row in singular / norms])[:, None]) @ right
    for halves in (False, True):
        found = np.asarray(orthogonalize(values, polynomials, restarts=restarts, norm="schatten", halves=halves))
        assert np.linalg.norm(found - expected, 2, axis=(1, 2)).max() < 3e-3


@pytest.mark.parametrize("restarts", [(), (2,), *SAFE_RESTARTS.values()])
def test_gram_matrices_give_the_direct_result(restarts):
    """Wherever they are formed anew, in fp32 to 1e-4 of a flat spectrum's values."""
    values, _ = matrix("gauss")
    direct, gram = (orthogonalize(values, POLAR, restarts=chosen) for chosen in (None, restarts))
    np.testing.assert_allclose(gram, direct, atol=1e-4)


@pytest.mark.parametrize("shape", [(96, 96), (96, 384)])
@pytest.mark.parametrize("decades", [3, 8])
def test_gram_matrices_of_fp32_bear_small_singular_values(shape, decades):
    """Spectra that fall over three and eight decades, rank one in the limit: no farther than 3e-3 from the direct
    result, where the polynomials themselves leave a tenth."""
    left, _, right = np.linalg.svd(np.random.default_rng(0).normal(size=(1, *shape)), full_matrices=False)
    values = jnp.asarray((left * 10.0 ** (-decades * np.arange(96) / 95)) @ right, jnp.float32)
    direct, gram = (orthogonalize(values, POLAR, restarts=chosen) for chosen in (None, SAFE_RESTARTS["float32"]))
    assert np.linalg.norm(np.asarray(direct - gram)[0], 2) < 3e-3


@pytest.mark.parametrize(("dtype", "asked"), [("float32", jax.lax.Precision.HIGHEST), ("bfloat16", None)])
def test_fp32_products_ask_for_full_precision(dtype, asked):
    """Every one of them; bf16 products leave the choice to the device."""
    run = functools.partial(orthogonalize, polynomials=POLAR, dtype=dtype, restarts=(2,))
    found = precisions(jax.make_jaxpr(run)(jnp.zeros((1, 4, 8))).jaxpr)
    assert len(found) > 5 and set(found) == {asked and (asked, asked)}


def precisions(jaxpr):
    """What every product of a program asks for, those inside its loops included."""
    found = [equation.params["precision"] for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    return found + [one for equation in jaxpr.eqns for inner in inner_jaxprs(equation) for one in precisions(inner)]


def test_huge_and_zero_matrices():
    """Entries of 1e25 do not overflow to a zero update, and a zero matrix stays zero, whatever the norm."""
    matrices = jnp.stack([1e25 * jnp.eye(4), jnp.zeros((4, 4)), jnp.eye(4)])
    for restarts, norm in itertools.product((None, SAFE_RESTARTS["float32"]), ("frobenius", "schatten")):
        found = np.asarray(orthogonalize(matrices, polynomials_of("keller_jordan", 5), restarts=restarts, norm=norm))
        np.testing.assert_allclose(found[0], found[2], rtol=1e-5)
        assert found[0, 0, 0] > 0.5
        assert (found[1] == 0).all()


@settings(max_examples=20)
@given(
    m=st.integers(1, 9),
    more=st.integers(0, 9),
    steps=st.integers(1, 6),
    restarts=st.one_of(st.none(), st.lists(st.integers(1, 7), max_size=3)),
    norm=st.sampled_from(["frobenius", "schatten"]),
    halves=st.booleans(),
)
def test_the_cost_is_what_the_formula_says(m, more, steps, restarts, norm, halves):
    """The products of the traced program, counted, wherever the restarts are."""
    polynomials = polynomials_of("polar_express", steps)
    run = functools.partial(orthogonalize, polynomials=polynomials, restarts=restarts, norm=norm, halves=halves)
    counted = matmul_flops(run, jax.ShapeDtypeStruct((1, m, m + more), jnp.float32))
    assert counted == iteration_flops(m, m + more, polynomials, restarts, halves)


def test_gram_matrices_pay_for_wide_matrices():
    """With restarts from half as wide again as high on, as 20 m^2 k + 10 m^3 against 12 m^2 k + 22 m^3 says for five
    steps."""
    restarts = SAFE_RESTARTS["bfloat16"]
    assert cheapest_restarts(32, 48, POLAR, restarts) is None and cheapest_restarts(32, 49, POLAR, restarts) == restarts
    assert iteration_flops(10, 30, POLAR) == 20 * 100 * 30 + 10 * 1000
    assert iteration_flops(10, 30, POLAR, restarts) == 12 * 100 * 30 + 22 * 1000


def test_halves_take_three_quarters():
    """Of the symmetric products: of the three of five quintics the square and the Gram matrix, on square matrices."""
    assert iteration_flops(10, 10, POLAR, halves=True) == 5 * (0.75 + 0.75 + 1) * 2000
    assert iteration_flops(10, 40, POLAR, (5,), halves=True) == (4 * 0.75 + 5 * 0.75 + 4 * 0.75 + 8 + 4) * 2000
