"""The counter of matrix products: loops count as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from wallwm_jax.core.flops import matmul_flops


def test_products_are_counted_wherever_they_stand():
    """Plain, jitted, differentiated through, in a scan of seven and in the dearer branch of a choice."""
    x = jnp.ones((3, 4))
    square = jnp.ones((4, 4))
    once = 2 * 3 * 4 * 4
    assert matmul_flops(lambda x: x @ square, x) == once
    assert matmul_flops(jax.jit(lambda x: x @ square), x) == once
    assert matmul_flops(jax.grad(lambda x: jnp.sum((x @ square) ** 2)), x) == 2 * once
    looped = matmul_flops(lambda x: jax.lax.scan(lambda y, _: (y @ square, None), x, length=7), x)
    assert looped == 7 * once
    chosen = matmul_flops(lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ square @ square, lambda y: y, x), x)
    assert chosen == 2 * once


def test_convolutions_are_counted():
    """Outputs times the kernel's weights of one output channel."""
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def convolve(image):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert matmul_flops(convolve, image) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


def test_a_loop_of_unknown_length_is_refused():
    """Rather than counted once."""
    with pytest.raises(NotImplementedError, match="while"):
        matmul_flops(lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 9, lambda y: y + 1, x), jnp.ones(3))
