"""Meshes as tables: a topology is one row, a logical axis goes to mesh axes by one rule list.

Every mesh has the axes `data` (batch only), `fsdp` (batch, and parameters sharded over it) and `tensor` (heads and
hidden widths). The axis types are Auto, because Flax's logical constraints raise on Explicit axes.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from wallwm_jax.core.axes import Declaration
from wallwm_jax.core.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
HOST_MEMORY = "pinned_host"
"""JAX's name for memory of the host from and to which a device copies by itself."""


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
    """The mesh of topology `name`; raises InputError when the name is unknown or the devices do not fit it.

    TPUs of several slices, between which the network is slow, are parts of the axis `data`.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(name, len(devices))
    devices = devices[: math.prod(sizes)]
    # Nodes of GPUs may have a slice index too; but there fsdp may well span nodes.
    slices = len({getattr(device, "slice_index", None) for device in devices if device.platform == "tpu"})
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    if slices <= 1:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=axis_types, devices=devices)
    data, *rest = sizes
    if data % slices:
        raise InputError(f"config.mesh {name!r}", f"data = {data}", f"a multiple of the {slices} slices")
    inside, across = (data // slices, *rest), (slices, 1, 1)
    grid = mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=axis_types)


def abstract_mesh(name: str, count: int) -> AbstractMesh:
    """The mesh of topology `name` over `count` devices that nobody has; raises InputError as `make_mesh`."""
    return AbstractMesh(mesh_sizes(name, count), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_sizes(name: str, count: int) -> tuple[int, ...]:
    """Sizes of the mesh axes of topology `name` on `count` devices; raises InputError when they do not fit it."""
    if name not in TOPOLOGIES:
        raise InputError("config.mesh", repr(name), f"one of {sorted(TOPOLOGIES)}")
    topology = TOPOLOGIES[name]
    count = min(count, topology.devices or count)
    sizes = [topology.data, topology.fsdp, topology.tensor]
    fixed = math.prod(size for size in sizes if size > 0)
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if math.prod(sizes) != count:
        raise InputError(f"config.mesh {name!r}", f"{count} devices", f"a device count that fits {topology}")
    return tuple(sizes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def row_shards() -> int:
    """Into how many pieces the mesh that is set cuts the rows of a batch: 1 without one, or on one with other axes."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return 1
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch(rows: int, mesh: Mesh | AbstractMesh, parts: int = 1) -> None:
    """Raises InputError unless the global batch divides over the mesh, and a device's rows into `parts`."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % shards:
        raise InputError("config.data.rows", rows, f"a multiple of {shards} (mesh axes {dict(mesh.shape)})")
    if rows // shards % parts:
        raise InputError("accumulate", parts, f"a divisor of the {rows // shards} rows that a device has of {rows}")


def check_host_memory(mesh: Mesh) -> None:
    """Raises InputError unless arrays can lie in the memory of the hosts of the mesh's devices."""
    device = mesh.local_devices[0]
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if HOST_MEMORY not in kinds:
        expected = f"a backend with {HOST_MEMORY!r} ({device.platform} has {kinds})"
        raise InputError("offload_optimizer", True, expected)


def parameter_spec(declaration: Declaration, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The partition of one parameter: each mesh axis is used at most once, by the first logical axis that names it."""
    rules, used, entries = dict(RULES), set(), []
    for axis, size in zip(declaration.axes, shape, strict=True):
        target = rules.get(axis)
        fits = target is not None and target not in used and size % mesh.shape[target] == 0
        entries.append(target if fits else None)
        used.add(target if fits else None)
    return PartitionSpec(*entries)


def parameter_shardings(parameters: Any, declarations: Any, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings for a tree of arrays (or shapes) and the matching tree of Declarations."""
    return jax.tree.map(
        lambda array, declaration: NamedSharding(mesh, parameter_spec(declaration, array.shape, mesh)),
        parameters,
        declarations,
    )
