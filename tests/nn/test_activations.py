"""The residual stream lies by rows of the batch, wherever a mesh is set."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from tests.train.synthetic import random_batch
from wallwm_jax.core.flops import inner_jaxprs
from wallwm_jax.core.mesh import MESH_AXES
from wallwm_jax.models.initialise import abstract_inputs, abstract_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.activations import by_rows


def mesh_of(*sizes, axes=MESH_AXES):
    return AbstractMesh(sizes, axes, axis_types=(AxisType.Auto,) * len(axes))


def constraints(jaxpr):
    """The partitions that a program asks for, those inside its loops included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint":
            found.append(equation.params["sharding"].spec)
        for inner in inner_jaxprs(equation):
            found += constraints(inner)
    return found


@pytest.mark.parametrize(
    ("mesh", "rows", "constrained"),
    [
        (mesh_of(2, 2, 1), 8, True),
        (mesh_of(1, 1, 4), 8, False),
        (mesh_of(2, 2, 1), 6, False),
        (mesh_of(4, axes=("mine",)), 8, False),
    ],
)
def test_rows_lie_over_the_axes_of_the_batch(mesh, rows, constrained):
    """Where there are several and the rows divide; on one, on rows that do not divide and on a mesh of somebody else
    the program asks for nothing."""
    with jax.sharding.use_abstract_mesh(mesh):
        found = constraints(jax.make_jaxpr(by_rows)(jnp.zeros((rows, 3))).jaxpr)
    assert found == ([PartitionSpec(("data", "fsdp"))] if constrained else [])


def marks(jaxpr):
    """The names that a program gives to what a remat may keep."""
    inner = [mark for equation in jaxpr.eqns for part in inner_jaxprs(equation) for mark in marks(part)]
    return [equation.params["name"] for equation in jaxpr.eqns if equation.primitive.name == "name"] + inner


def test_both_towers_ask_for_it_in_every_block():
    """Of the joint pass and of the text encoder: before and after each half of the scanned block, and each layer. The
    block marks what its seven branches add to the stream, four of the video's and three of the actions'."""
    model = WorldAction(variant("micro"), views=2)
    batch = random_batch(0, rows=4)
    parameters, _ = abstract_parameters(model, batch)
    given = jax.eval_shape(lambda row: abstract_inputs(model, row), batch)
    with jax.sharding.use_abstract_mesh(mesh_of(2, 2, 1)):
        traced = jax.make_jaxpr(lambda *inputs: model.apply({"params": inputs[0]}, *inputs[1:]))(parameters, *given)
    assert constraints(traced.jaxpr) == [PartitionSpec(("data", "fsdp"))] * 6
    assert marks(traced.jaxpr) == ["branch"] * 7


def test_without_a_mesh_nothing_is_asked_for():
    """A notebook's model is what it was."""
    assert constraints(jax.make_jaxpr(by_rows)(jnp.zeros((8, 3))).jaxpr) == []
