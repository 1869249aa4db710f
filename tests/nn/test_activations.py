"""Activations lie where the table of their axes says, wherever a mesh is set."""

import re

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
from wallwm_jax.nn import activations
from wallwm_jax.nn.activations import exchange, lay_out

ROWS = ("data", "fsdp")
TOKENS = "rows tokens heads head_dim"
ATTENDED = "rows attended heads head_dim"


def mesh_of(*sizes, axes=MESH_AXES):
    return AbstractMesh(sizes, axes, axis_types=(AxisType.Auto,) * len(axes))


def constraints(jaxpr):
    """The partitions that a program asks for, those inside its loops included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint":
            found.append(tuple(equation.params["sharding"].spec))
        for inner in inner_jaxprs(equation):
            found += constraints(inner)
    return found


def asked(function, shape, mesh=None):
    """What `function` asks for on an array of this shape, axes that stay whole left out at the end."""
    if mesh is None:
        found = constraints(jax.make_jaxpr(function)(jnp.zeros(shape)).jaxpr)
    else:
        with jax.sharding.use_abstract_mesh(mesh):
            found = constraints(jax.make_jaxpr(function)(jnp.zeros(shape)).jaxpr)
    return [tuple(PartitionSpec(*spec)) for spec in map(trimmed, found)]


def trimmed(spec):
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return spec


@pytest.mark.parametrize(
    ("mesh", "shape", "axes", "spec"),
    [
        (mesh_of(2, 2, 1, 1), (8, 3), "rows embed", (ROWS,)),
        (mesh_of(1, 1, 1, 4), (8, 3), "rows embed", None),
        (mesh_of(1, 3, 1, 1), (8, 3), "rows embed", None),
        (mesh_of(2, 2, 2, 1), (8, 4, 3), "rows slots embed", (ROWS, "sequence")),
        (mesh_of(2, 2, 2, 1), (8, 5, 3), "rows slots embed", (ROWS,)),
        (mesh_of(1, 1, 2, 2), (8, 4, 4, 3), TOKENS, (None, "sequence", "tensor")),
        (mesh_of(1, 1, 2, 2), (8, 4, 4, 3), ATTENDED, (None, None, ("tensor", "sequence"))),
        (mesh_of(1, 1, 2, 2), (8, 4, 6, 3), ATTENDED, (None, None, "tensor")),
        (mesh_of(4, axes=("mine",)), (8, 3), "rows embed", None),
    ],
)
def test_a_mesh_axis_goes_to_the_first_axis_that_names_it(mesh, shape, axes, spec):
    """Where it has several devices and divides the size; if nothing is cut, and on a mesh of somebody else, the program
    asks for nothing."""
    assert asked(lambda x: lay_out(x, axes), shape, mesh) == ([] if spec is None else [spec])


def marks(jaxpr):
    """The names that a program gives to what a remat may keep."""
    inner = [mark for equation in jaxpr.eqns for part in inner_jaxprs(equation) for mark in marks(part)]
    return [equation.params["name"] for equation in jaxpr.eqns if equation.primitive.name == "name"] + inner


def test_tokens_are_exchanged_for_heads_only_where_they_are_split():
    """One layout after the other with a sequence axis; without one the compiler is left alone, whatever else is cut."""
    shape = (4, 4, 4, 3)
    both = asked(lambda x: exchange(x, TOKENS, ATTENDED), shape, mesh_of(1, 2, 2, 1))
    assert both == [("fsdp", "sequence"), ("fsdp", None, "sequence")]
    assert asked(lambda x: exchange(x, TOKENS, ATTENDED), shape, mesh_of(2, 2, 1, 2)) == []


@pytest.mark.parametrize(("mesh", "expected"), [(mesh_of(2, 2, 1, 1), {(ROWS,): 6})])
def test_towers_ask_in_every_block(mesh, expected):
    """Of the joint pass and of the text encoder: before and after each half of the scanned block, and each layer. The
    block marks what its seven branches add to the stream, four of the video's and three of the actions'."""
    model = WorldAction(variant("micro"), views=2)
    batch = random_batch(0, rows=4)
    parameters, _ = abstract_parameters(model, batch)
    given = jax.eval_shape(lambda row: abstract_inputs(model, row), batch)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.make_jaxpr(lambda *inputs: model.apply({"params": inputs[0]}, *inputs[1:]))(parameters, *given)
    found = [trimmed(spec) for spec in constraints(traced.jaxpr)]
    assert {spec: found.count(spec) for spec in found} == expected
    assert marks(traced.jaxpr) == ["branch"] * 7


def test_without_a_mesh_nothing_is_asked_for():
    """A notebook's model is what it was."""
    assert asked(lambda x: lay_out(x, "rows embed"), (8, 3)) == []


def test_the_documented_table_is_the_table():
    """Names and mesh axes of the module's docstring are those of `ACTIVATION_AXES`."""
    documented = {}
    for line in activations.__doc__.splitlines():
        if line.startswith("| `"):
            names, axes = (re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:3])
            documented |= {name: tuple(axes) for name in names}
    assert documented == dict(activations.ACTIVATION_AXES)
