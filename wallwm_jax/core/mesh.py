"""Meshes as tables: a topology is one row, a logical axis goes to mesh axes by one rule list.

Every mesh has the axes `data` (batch only), `fsdp` (batch, and parameters sharded over it) and `tensor` (heads and
hidden widths). The axis types are Auto, because Flax's logical constraints raise on Explicit axes.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from wallwm_jax.core.axes import Declaration
from wallwm_jax.core.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Sizes of the mesh axes; -1 (at most once) takes the devices that are left. `devices` None uses all there are."""

    data: int
    fsdp: int
    tensor: int
    devices: int | None = None


TOPOLOGIES: dict[str, Topology] = {
    "laptop": Topology(data=1, fsdp=1, tensor=1, devices=1),
    "eight_devices": Topology(data=2, fsdp=2, tensor=2, devices=8),
    "host": Topology(data=1, fsdp=-1, tensor=1),
    "pod": Topology(data=-1, fsdp=16, tensor=1),
}

RULES: tuple[tuple[str, str], ...] = (
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("action_embed", "fsdp"),
    ("text_embed", "fsdp"),
)
"""Logical axis -> mesh axis; an axis without a rule, or whose size the mesh axis does not divide, is replicated."""


def make_mesh(name: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of topology `name`; raises InputError when the name is unknown or the devices do not fit it."""
    if name not in TOPOLOGIES:
        raise InputError("config.mesh", repr(name), f"one of {sorted(TOPOLOGIES)}")
    topology = TOPOLOGIES[name]
    devices = list(jax.devices() if devices is None else devices)[: topology.devices]
    sizes = [topology.data, topology.fsdp, topology.tensor]
    fixed = math.prod(size for size in sizes if size > 0)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if math.prod(sizes) != len(devices):
        raise InputError(f"config.mesh {name!r}", f"{len(devices)} devices", f"a device count that fits {topology}")
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch(rows: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises InputError unless the global batch divides over the mesh."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % shards:
        raise InputError("config.data.rows", rows, f"a multiple of {shards} (mesh axes {dict(mesh.shape)})")


def parameter_spec(declaration: Declaration, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The partition of one parameter: each mesh axis is used at most once, by the first logical axis that names it."""
    rules, used, entries = dict(RULES), set(), []
    for axis, size in zip(declaration.axes, shape, strict=True):
        target = rules.get(axis)
        fits = target is not None and target not in used and size % mesh.shape[target] == 0
        entries.append(target if fits else None)
        used.add(target if fits else None)
    return PartitionSpec(*entries)


def parameter_shardings(parameters: Any, declarations: Any, mesh: Mesh) -> Any:
    """NamedShardings for a tree of arrays (or shapes) and the matching tree of Declarations."""
    return jax.tree.map(
        lambda array, declaration: NamedSharding(mesh, parameter_spec(declaration, array.shape, mesh)),
        parameters,
        declarations,
    )
