"""Floating-point operations of a train step, by what they are for."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from wallwm_jax.core.flops import inner_jaxprs, jaxpr_flops
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.optim import freeze
from wallwm_jax.optim.muon import matrix_views, ownership_of
from wallwm_jax.plan.step import AbstractStep, using
from wallwm_jax.train.step import make_gradients


class Operations(NamedTuple):
    """Operations (2 a multiply-add) of matrix products and convolutions a step.

    `model` is forward and backward without recomputation, as MFU counts it, and `recomputed` what remat adds, both of
    all devices. `optimizer` is that of the device that has most to do. `device` is a device's share of all three if the
    first two are spread evenly.
    """

    model: int
    recomputed: int
    optimizer: int
    devices: int

    @property
    def device(self) -> float:
        return (self.model + self.recomputed) / self.devices + self.optimizer


class Activations(NamedTuple):
    """Bytes on all devices: what a step's loops keep for its backward pass, and an upper bound of what it holds beside
    that while it is in the largest body of a loop (all intermediate results of it at once)."""

    kept: int
    inside: int


def count_operations(step: AbstractStep, plain: AbstractStep) -> Operations:
    """Of a step and of the same without remat."""
    with_remat, without = _gradient_flops(step), _gradient_flops(plain)
    return Operations(without, with_remat - without, _optimizer_flops(step, with_remat), step.run.mesh.size)


def count_activations(step: AbstractStep) -> Activations:
    """From the traced gradients: what a loop stacks up that another takes apart again, and the largest body; of a part
    of the batch where a step takes it in parts."""
    jaxprs = list(_jaxprs(_gradients(_of_a_part(step))))
    loops = [equation for jaxpr in jaxprs for equation in _scans(jaxpr)]
    return Activations(sum(map(_kept_bytes, jaxprs)), max(map(_body_bytes, loops), default=0))


def _gradients(step: AbstractStep) -> core.Jaxpr:
    run = step.run
    gradients = make_gradients(run.model, run.stage, run.settings, run.seed)
    with using(run.mesh):
        return jax.make_jaxpr(gradients)(step.state.parameters, step.batch, step.state.step).jaxpr


def _of_a_part(step: AbstractStep) -> AbstractStep:
    """The step of a run that has only the rows of a part, and takes them at once."""
    run = step.run
    parts, whole = run.settings.run.accumulate, dataclasses.replace(run.settings.run, accumulate=1)
    settings = dataclasses.replace(run.settings, run=whole)

    def rows(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((leaf.shape[0] // parts, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)

    return step._replace(run=dataclasses.replace(run, settings=settings), batch=jax.tree.map(rows, step.batch))


def _gradient_flops(step: AbstractStep) -> int:
    return jaxpr_flops(_gradients(step))


def _optimizer_flops(step: AbstractStep, gradients: int) -> int:
    """Of the busiest device. Loops of unknown length in a step are those of Muon on a mesh, an owner's matrices one by
    one; where there are none, every device does all."""
    loops = []
    with using(step.run.mesh):
        jaxpr = jax.make_jaxpr(step.programs.step)(step.state, step.batch).jaxpr
    rest = jaxpr_flops(jaxpr, lambda loop: loops.append(loop) or 0) - gradients
    return rest + int(owned_flops(step).max()) if loops else rest


def owned_flops(step: AbstractStep) -> np.ndarray:
    """Operations of Muon on every device of the mesh."""
    run = step.run
    trained, _ = freeze.split(step.state.parameters, run.stage.trains)
    rules = named_leaves(run.declarations)
    matrices = {name: leaf for name, leaf in named_leaves(trained).items() if rules[name].optimizer == "muon"}
    settings = run.settings.optimizer.muon
    views = matrix_views(matrices, run.declarations, settings, run.mesh)
    return ownership_of(views, dict(run.mesh.shape), settings)[0].flops


def _jaxprs(jaxpr: core.Jaxpr) -> Iterator[core.Jaxpr]:
    """This one and all that are inside."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for inner in inner_jaxprs(equation):
            yield from _jaxprs(inner)


def _scans(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    return [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]


def _kept_bytes(jaxpr: core.Jaxpr) -> int:
    """Of what its forward loops stack up for its backward loops. Stacked gradients, which no loop reads, do not
    count."""
    scans = _scans(jaxpr)
    read = {id(variable) for scan in scans for variable in scan.invars}
    stacked = (variable for scan in scans for variable in scan.outvars[scan.params["num_carry"] :])
    return sum(_bytes(variable) for variable in stacked if id(variable) in read)


def _body_bytes(loop: core.JaxprEqn) -> int:
    """Of all results in a loop's body; of a loop or function in it, one turn."""

    def inside(jaxpr: core.Jaxpr) -> int:
        return sum(
            sum(map(_bytes, equation.outvars)) + max(map(inside, inner_jaxprs(equation)), default=0)
            for equation in jaxpr.eqns
        )

    return inside(loop.params["jaxpr"].jaxpr)


def _bytes(variable: Any) -> int:
    return variable.aval.size * variable.aval.dtype.itemsize if hasattr(variable.aval, "dtype") else 0
