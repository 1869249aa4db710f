"""What can be said without a compiler: bytes from shardings alone, and the least that a step must move.

The least is that of a step that is fully sharded over `fsdp` and `sequence` and otherwise ideal: whole parameters are
gathered for the forward and again for the backward pass, gradients are scattered once and summed over `data`, all in
the dtype of the products; of a batch that is taken in parts all that but the sum is done for every part. What Muon
exchanges, what `sequence` sends around attention and what `tensor` costs come on top.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Int

from wallwm_jax.core.mesh import BATCH_AXES, HOST_MEMORY
from wallwm_jax.core.trees import parameter_count
from wallwm_jax.optim import freeze
from wallwm_jax.plan.groups import members
from wallwm_jax.plan.operations import Activations
from wallwm_jax.plan.step import AbstractStep
from wallwm_jax.plan.traffic import Traffic, sent


class Holdings(NamedTuple):
    """Bytes on a device: the state (exact, from its shardings), the batch, gradients in fp32, and activations if they
    are spread evenly over the axes of rows and tokens: kept for the backward pass, and an upper bound of those beside
    them; of one part of the batch, where it is taken in parts. `host` is what lies in the host's memory instead."""

    parameters: int
    average: int
    optimizer: int
    batch: int
    gradients: int
    kept: int
    inside: int
    host: int = 0

    @property
    def state(self) -> int:
        return self.parameters + self.average + self.optimizer

    @property
    def least(self) -> int:
        """What no schedule can do without."""
        return self.state + self.batch + self.gradients + self.kept

    @property
    def most(self) -> int:
        return self.least + self.inside


def holdings(step: AbstractStep, activations: Activations) -> Holdings:
    """From shapes and shardings; nothing is compiled."""
    state = step.state
    trained, _ = freeze.split(state.parameters, step.run.stage.trains)
    parts = (state.parameters, state.average, state.optimizer_state, step.batch, trained)
    shards = math.prod(step.run.mesh.shape[axis] for axis in (*BATCH_AXES, "sequence"))
    held, offloaded = ([_device_bytes(part, host) for part in parts] for host in (False, True))
    return Holdings(*held, activations.kept // shards, activations.inside // shards, sum(offloaded))


def least_traffic(step: AbstractStep, held: Holdings, domains: Sequence[int]) -> Traffic:
    """A device's share of an ideal step; `domains` says which fast interconnect each device hangs on."""
    run, mesh = step.run, step.run.mesh
    trained, _ = freeze.split(step.state.parameters, run.stage.trains)
    products, gradients = (
        parameter_count(tree) * np.dtype(run.model.dtype).itemsize for tree in (step.state.parameters, trained)
    )
    shards, copies = (members(_along(mesh, axes), domains) for axes in (("fsdp", "sequence"), ("data",)))
    parts = run.settings.run.accumulate
    found = {
        "all-gather": sent("all-gather", products, *shards) * (2 * parts),
        "reduce-scatter": sent("reduce-scatter", gradients, *shards) * parts,
        "all-reduce": sent("all-reduce", gradients / math.prod(shards), *copies),
    }
    memory = 2 * (held.state + held.host) + parts * (4 * products + 2 * held.kept)
    return Traffic({kind: part for kind, part in found.items() if part.links or part.network}, memory)


def _along(mesh: Mesh | AbstractMesh, axes: tuple[str, ...]) -> Int[np.ndarray, "group member"]:
    """The groups of devices that axes of the mesh join."""
    sizes, names = tuple(mesh.shape.values()), list(mesh.shape)
    places = [names.index(axis) for axis in axes]
    grid = np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), places, range(-len(axes), 0))
    return grid.reshape(-1, math.prod(mesh.shape[axis] for axis in axes))


def _device_bytes(tree: Any, host: bool) -> int:
    """Of the shards that one device holds, or that the host holds for it."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if (leaf.sharding.memory_kind == HOST_MEMORY) == host]
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
