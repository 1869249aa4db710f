"""Orthogonalisation: near the polar factor on every spectrum and precision, direct or on Gram matrices, at its cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import Literal

from wallwm_jax.core.flops import inner_jaxprs, matmul_flops
from wallwm_jax.optim.newton_schulz import SAFE_RESTARTS, cheapest_restarts, iteration_flops, orthogonalize
from wallwm_jax.optim.polynomials import polynomials_of

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
            assert (parameters["num_consts"], parameters["num_carry"]) == (len(given) - 2, 1)
            body, fixed, carry, turns = parameters["jaxpr"], given[:-2], given[-2], given[-1]
            for turn in turns:
                (carry,) = evaluate(body.jaxpr, body.consts, [*fixed, carry, turn])
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
    """Five steps of our set have cosine .995 or more with U V^T, and no singular value above 1.2, on a flat spectrum
    and on those that fall as 1 / i and to exp(-5); Optax's default polynomial stays below that."""
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    restarts = SAFE_RESTARTS["float32" if precision == "float32" else "bfloat16"] if gram else None
    values, polar = matrix(spectrum)
    for name, close in (("polar_close", True), ("keller_jordan", False)):
        run = functools.partial(orthogonalize, polynomials=polynomials_of(name, 5), dtype=dtype, restarts=restarts)
        found = np.asarray((as_on_a_tpu(run) if precision == "tpu" else run)(values), np.float64)
        cosine = (found * polar).sum() / (np.linalg.norm(found) * np.linalg.norm(polar))
        assert (cosine >= 0.995) == close, (name, cosine)
        assert np.linalg.svd(found, compute_uv=False).max() <= (1.2 if close else 1.3)


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
    """Entries of 1e25 do not overflow to a zero update, and a zero matrix stays zero."""
    matrices = jnp.stack([1e25 * jnp.eye(4), jnp.zeros((4, 4)), jnp.eye(4)])
    for restarts in (None, SAFE_RESTARTS["float32"]):
        found = np.asarray(orthogonalize(matrices, polynomials_of("keller_jordan", 5), restarts=restarts))
        np.testing.assert_allclose(found[0], found[2], rtol=1e-5)
        assert found[0, 0, 0] > 0.5
        assert (found[1] == 0).all()


@settings(max_examples=20)
@given(
    m=st.integers(1, 9),
    more=st.integers(0, 9),
    steps=st.integers(1, 6),
    restarts=st.one_of(st.none(), st.lists(st.integers(1, 7), max_size=3)),
)
def test_the_cost_is_what_the_formula_says(m, more, steps, restarts):
    """The products of the traced program, counted, wherever the restarts are."""
    run = functools.partial(orthogonalize, polynomials=polynomials_of("polar_express", steps), restarts=restarts)
    counted = matmul_flops(run, jax.ShapeDtypeStruct((1, m, m + more), jnp.float32))
    assert counted == iteration_flops(m, m + more, steps, restarts)


def test_gram_matrices_pay_for_wide_matrices():
    """With restarts from half as wide again as high on, as 20 m^2 k + 10 m^3 against 12 m^2 k + 22 m^3 says for five
    steps."""
    restarts = SAFE_RESTARTS["bfloat16"]
    assert cheapest_restarts(32, 48, 5, restarts) is None and cheapest_restarts(32, 49, 5, restarts) == restarts
    assert iteration_flops(10, 30, 5) == 20 * 100 * 30 + 10 * 1000
    assert iteration_flops(10, 30, 5, restarts) == 12 * 100 * 30 + 22 * 1000
