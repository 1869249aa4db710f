"""One string gives shape, fan-in, optimizer and decay, and refuses what names no rule."""

import pytest

from wallwm_jax.core.axes import AXES, declare
from wallwm_jax.core.errors import InputError

SIZES = {name: size for size, name in enumerate(AXES, start=2)}


def test_matrix_rule():
    """The arrow splits inputs from outputs: fan-in, Muon's view and weight decay follow from it."""
    declaration = declare("embed -> heads head_dim")
    sizes = {"embed": 12, "heads": 3, "head_dim": 4}
    assert declaration.shape(sizes) == (12, 3, 4)
    assert declaration.fan_in(sizes) == 12
    assert declaration.matrix_shape((12, 3, 4)) == (1, 12, 12)
    assert (declaration.optimizer, declaration.decay) == ("muon", True)


def test_stack_axes_are_not_part_of_the_matrix():
    """`nn.scan` puts a stack axis in front: Muon must see layers separate matrices."""
    stacked = declare("heads head_dim -> embed").stacked("layers")
    assert stacked.axes == ("layers", "heads", "head_dim", "embed")
    assert stacked.matrix_shape((6, 3, 4, 12)) == (6, 12, 12)


@pytest.mark.parametrize("text", ["embed", "[vocabulary] text_embed", "layers | embed"])
def test_vectors_and_tables_go_to_adamw_without_decay(text):
    """Norm scales, biases and embeddings are no matrices, stacked or not."""
    declaration = declare(text)
    assert (declaration.optimizer, declaration.decay) == ("adamw", False)
    assert declaration.fan_in(SIZES) == 1


@pytest.mark.parametrize("text", ["embed mlp", "embed -> nonsense", "-> embed", "embed -> mlp @sgd"])
def test_forms_without_a_rule_are_refused(text):
    """No default: a parameter of two axes that no rule names is an error."""
    with pytest.raises(InputError, match="parameter"):
        declare(text)
