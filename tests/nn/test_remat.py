"""What is computed again changes no gradient, and is what the name says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.flops import matmul_flops
from wallwm_jax.nn.drawing import materialise
from wallwm_jax.nn.layers import FeedForward
from wallwm_jax.nn.parameters import normal, parameter
from wallwm_jax.nn.remat import REMATS, branch, rematerialised

SIZES = {"embed": 8, "mlp": 32}
LAYERS, ROWS = 3, 5
PRODUCT = 2 * ROWS * 8 * 32
"""Operations of each of the network's two products."""


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        gate = parameter(self, "gate", "embed", SIZES, normal(1.0))
        scores = jnp.einsum("aie,aje->aij", x[None], x[None])  # a batched product, as of attention
        x = jnp.einsum("aij,aje->aie", jax.nn.softmax(scores), x[None])[0]
        return x + gate * branch(FeedForward("embed", SIZES, name="mlp")(x)), None


def loss_of(name):
    stack = nn.scan(
        rematerialised(Block, name),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=LAYERS,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    model = stack()
    return model, lambda parameters, x: jnp.sum(jnp.square(model.apply({"params": parameters}, x, None)[0]))


@pytest.fixture(scope="module")
def case():
    model, _ = loss_of("none")
    x = jax.random.normal(jax.random.key(1), (ROWS, 8))
    boxed = jax.eval_shape(model.init, jax.random.key(0), x, None)["params"]
    return materialise(boxed, jax.random.key(0)), x


@pytest.mark.parametrize(
    ("name", "again"),
    # Attention's two products have 2 * 5 * 5 * 8 operations each.
    [("none", 0), ("dots", 2 * 400), ("branches", 2 * 400 + PRODUCT), ("full", 2 * 400 + 2 * PRODUCT)],
)
def test_gradients_are_equal_and_no_more_is_computed(case, name, again):
    """Of three layers with a batched attention and a gated network: the gradient of every parameter to rounding, and
    the operations that each name adds, layer by layer."""
    plain, other = (jax.grad(loss_of(remat)[1]) for remat in ("none", name))
    assert matmul_flops(other, *case) - matmul_flops(plain, *case) == LAYERS * again
    expected, found = (jax.jit(function)(*case) for function in (plain, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6), expected, found)


def test_an_unknown_name_is_refused():
    """With the names that there are."""
    with pytest.raises(InputError, match=r"remat: found 'some', expected one of .*'branches'"):
        rematerialised(Block, "some")
    assert set(REMATS) == {"none", "dots", "branches", "full"}
