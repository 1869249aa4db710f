"""Symmetric matrices whole and by halves: every operation is that of the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.core.flops import matmul_flops
from wallwm_jax.optim.symmetric import combined, congruent, gram, plus_identity, product_flops, squared_norm, times

sizes = st.integers(1, 9)


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@settings(max_examples=12)
@given(m=sizes, k=sizes, halves=st.booleans(), batch=st.sampled_from([(), (2,)]))
def test_operations_are_those_of_the_whole_matrix(m, k, halves, batch):
    """Gram matrices, products of matrices that commute, P A P, sums, norms (1e-4 of sums of up to 9^2 products of
    entries of up to 30); and the number of operations."""
    values = random(*batch, m, k)
    whole, matrix = values @ values.mT, gram(values, halves)
    square = whole @ whole
    shifted = plus_identity(jnp.float32(2), matrix)

    def same(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    same(matrix.whole, whole)
    same(times(matrix, matrix).whole, square)
    same(shifted.whole, whole + 2 * np.eye(m))
    numbers = [jnp.float32(3), jnp.float32(-1)]
    same(combined(numbers, [matrix, shifted]).whole, 2 * whole - 2 * np.eye(m))
    same(congruent(shifted, matrix).whole, shifted.whole @ whole @ shifted.whole)
    same(squared_norm(matrix), np.sum(np.square(whole), axis=(-2, -1), keepdims=True))
    counted = matmul_flops(lambda values: gram(values, halves), jax.ShapeDtypeStruct((m, k), jnp.float32))
    assert counted == product_flops(m, k, halves)


@pytest.mark.parametrize("halves", [False, True])
def test_what_is_congruent_is_symmetric_to_the_bit(halves):
    """Of odd sizes too; the product itself is not."""
    matrix = gram(random(33, 40), halves)
    factor = plus_identity(jnp.float32(0.5), times(matrix, matrix))
    found = congruent(factor, matrix).whole
    assert np.array_equal(found, found.T)
    plain = factor.whole @ matrix.whole @ factor.whole
    assert not np.array_equal(plain, plain.T)
