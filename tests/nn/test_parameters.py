"""Parameters: shape, spread, axes and optimizer all come from one string, through `nn.scan` too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.nn.drawing import materialise
from wallwm_jax.nn.layers import Linear
from wallwm_jax.nn.parameters import declarations, normal, parameter

SIZES = {"embed": 48, "heads": 2, "head_dim": 24, "mlp": 64, "vocabulary": 10}


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = Linear("embed -> heads head_dim", SIZES, name="split")(x)
        return Linear("heads head_dim -> embed", SIZES, name="join")(x), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        table = parameter(self, "table", "[vocabulary] embed", SIZES, normal(0.5))
        scan = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(name="layers")(x + table[0], None)[0]


@pytest.fixture(scope="module")
def boxed():
    return jax.eval_shape(Stack().init, jax.random.key(0), jnp.zeros((1, 48)))["params"]


def test_scanned_parameters_are_declared_with_their_stack(boxed):
    """`nn.scan` adds "layers |" in front, and the declared axes give the stored shape."""
    declared = named_leaves(declarations(boxed))
    assert declared["layers/split/weight"].text == "layers | embed -> heads head_dim"
    assert declared["layers/split/bias"].text == "layers | [heads] head_dim"
    assert declared["table"].text == "[vocabulary] embed"
    params = named_leaves(materialise(boxed, jax.random.key(0)))
    for name, declaration in declared.items():
        assert params[name].shape == declaration.shape({**SIZES, "layers": 3})


def test_initial_values_have_unit_fan_in(boxed):
    """A matrix keeps the scale of its input: variance 1 / fan-in, where the fan runs over heads x head_dim too."""
    params = materialise(boxed, jax.random.key(0))
    for name in ("split", "join"):
        assert abs(float(params["layers"][name]["weight"].std()) * 48**0.5 - 1) < 0.05
    assert abs(float(params["table"].std()) / 0.5 - 1) < 0.15
    assert not params["layers"]["split"]["bias"].any()
    layers = np.asarray(params["layers"]["split"]["weight"])
    assert not np.array_equal(layers[0], layers[1])


def test_a_parameter_depends_on_its_path_and_key_alone(boxed):
    """Dropping the rest of the tree changes nothing; another key changes everything drawn."""
    whole = materialise(boxed, jax.random.key(0))
    alone = materialise({"table": boxed["table"]}, jax.random.key(0))
    np.testing.assert_array_equal(whole["table"], alone["table"])
    assert np.all(np.asarray(materialise(boxed, jax.random.key(1))["table"]) != np.asarray(whole["table"]))


def test_an_undeclared_parameter_is_refused(boxed):
    """An array that no declaration covers is an error naming it, and so is a form without a rule or initialiser."""
    with pytest.raises(InputError, match="layers/raw"):
        declarations({"layers": {"raw": jnp.zeros((2, 2))}, "table": boxed["table"]})

    class Bad(nn.Module):
        text: str

        @nn.compact
        def __call__(self):
            return parameter(self, "weight", self.text, SIZES)

    for text, match in (("embed mlp", "no rule"), ("[vocabulary] embed", "initialiser"), ("embed -> dof", "dof")):
        with pytest.raises(InputError, match=match):
            jax.eval_shape(Bad(text).init, jax.random.key(0))
