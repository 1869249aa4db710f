"""Meshes as tables: a topology is one row, a logical axis of a parameter goes to mesh axes by one rule list.

Every mesh has four axes:

| mesh axis | what is split over it |
|---|---|
| `data` | rows of the batch |
| `fsdp` | rows of the batch; parameters, gathered where they are used |
| `sequence` | tokens of a row, inside attention heads; parameters, as over `fsdp` |
| `tensor` | heads and hidden widths |

and a topology says how many devices each has (-1: all that are left):

| topology | `data` | `fsdp` | `sequence` | `tensor` | devices |
|---|---|---|---|---|---|
| `laptop` | 1 | 1 | 1 | 1 | 1 |
| `eight_devices` | 2 | 2 | 1 | 2 | 8 |
| `host` | 1 | -1 | 1 | 1 | any |
| `pod` | -1 | 16 | 1 | 1 | multiples of 16 |
| `long_rows` | 1 | -1 | 2 | 1 | multiples of 2 |
| `long_rows_pod` | -1 | 4 | 4 | 1 | multiples of 16 |

Where activations lie is said in `nn.activations`. The axis types are Auto, because Flax's logical constraints raise on
Explicit axes.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from wallwm_jax.core.axes import Declaration
from wallwm_jax.core.errors import InputError

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")
HOST_MEMORY = "pinned_host"
"""JAX's name for memory of the host from and to which a device copies by itself."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Sizes of the mesh axes; -1 (at most once) takes the devices that are left. `devices` None uses all there are."""

    data: int
    fsdp: int
    tensor: int
    sequence: int = 1
    devices: int | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order of `MESH_AXES`."""
        return tuple(getattr(self, axis) for axis in MESH_AXES)


TOPOLOGIES: dict[str, Topology] = {
    "laptop": Topology(data=1, fsdp=1, tensor=1, devices=1),
    "eight_devices": Topology(data=2, fsdp=2, tensor=2, devices=8),
    "host": Topology(data=1, fsdp=-1, tensor=1),
    "pod": Topology(data=-1, fsdp=16, tensor=1),
    "long_rows": Topology(data=1, fsdp=-1, sequence=2, tensor=1),
    "long_rows_pod": Topology(data=-1, fsdp=4, sequence=4, tensor=1),
}

RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("heads", ("tensor",)),
    ("mlp", ("tensor",)),
    ("embed", ("fsdp", "sequence")),
    ("action_embed", ("fsdp", "sequence")),
    ("text_embed", ("fsdp", "sequence")),
)
"""Logical axis of a parameter -> mesh axes it is cut along (`partition`); an axis without a rule is replicated."""


def make_mesh(name: str, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of topology `name`; raises InputError when the name is unknown or the devices do not fit it.

    `devices` are this run's, `jax.devices()`, or absent ones to compile for. TPUs of several slices, between which the
    network is slow, are parts of the axis `data`.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(name, len(devices))
    devices = devices[: math.prod(sizes)]
    # Nodes of GPUs may have a slice index too; but there fsdp may well span nodes.
    slices = len({getattr(device, "slice_index", None) for device in devices if device.platform == "tpu"})
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    if slices <= 1:
        # As `jax.make_mesh`, which refuses to cut an axis of a torus in two: fsdp 16 on a cube of sides 8.
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(grid, MESH_AXES, axis_types=axis_types)
    data, *rest = sizes
    if data % slices:
        raise InputError(f"config.mesh {name!r}", f"data = {data}", f"a multiple of the {slices} slices")
    inside, across = (data // slices, *rest), (slices, *(1 for _ in rest))
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
    sizes = list(topology.sizes)
    fixed = math.prod(size for size in sizes if size > 0)
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if math.prod(sizes) != count:
        raise InputError(f"config.mesh {name!r}", f"{count} devices", f"a device count that fits {topology}")
    return tuple(sizes)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def row_shards() -> int:
    """Into how many pieces the mesh that is set cuts the rows of a batch: 1 without one, or on one with other axes."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return 1
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def row_share(mesh: Mesh, process: int) -> tuple[int, int]:
    """(which share of the batch's rows a process loads, how many shares there are). Processes whose devices have the
    same rows, and different tokens or heads of them, load the same share.

    Raises InputError if two processes have some of their rows in common and others not.
    """
    held: dict[int, list[int]] = {}
    for block, devices in enumerate(mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)):
        for other in {device.process_index for device in devices}:
            held.setdefault(other, []).append(block)
    shares = sorted({tuple(blocks) for blocks in held.values()})
    if len({block for share in shares for block in share}) < sum(map(len, shares)):
        raise InputError("config.mesh", dict(mesh.shape), "processes that have all rows in common, or none")
    return shares.index(tuple(held[process])), len(shares)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch(rows: int, mesh: Mesh | AbstractMesh, parts: int = 1, where: str = "config.data.rows") -> None:
    """Raises InputError unless the global batch, of which the key `where` tells, divides over the mesh, and a device's
    rows into `parts`."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % shards:
        raise InputError(where, rows, f"a multiple of {shards} (mesh axes {dict(mesh.shape)})")
    if rows // shards % parts:
        raise InputError("accumulate", parts, f"a divisor of the {rows // shards} rows that a device has of {rows}")


def check_host_memory(mesh: Mesh) -> None:
    """Raises InputError unless arrays can lie in the memory of the hosts of the mesh's devices."""
    device = mesh.local_devices[0]
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if HOST_MEMORY not in kinds:
        expected = f"a backend with {HOST_MEMORY!r} ({device.platform} has {kinds})"
        raise InputError("offload_optimizer", True, expected)


def check_sequence(tokens: Mapping[str, int], heads: Mapping[str, int], mesh: Mesh | AbstractMesh) -> None:
    """Raises InputError unless the axis `sequence` divides what it splits; both mappings go from names to sizes.

    `tokens` are those of a row, and `heads` those of attention over them, which `tensor` splits first.
    """
    sequence, both = mesh.shape["sequence"], mesh.shape["sequence"] * mesh.shape["tensor"]
    if sequence == 1:
        return
    for sizes, shards in ((tokens, sequence), (heads, both)):
        for field, size in sizes.items():
            if size % shards:
                raise InputError(field, size, f"a multiple of {shards} (mesh axes {dict(mesh.shape)})")


def parameter_spec(declaration: Declaration, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The partition of one parameter by `RULES`."""
    rules = dict(RULES)
    return partition([rules.get(axis, ()) for axis in declaration.axes], shape, mesh)


def partition(targets: Sequence[Sequence[str]], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The partition of an array each of whose axes asks for mesh axes (`targets`): it gets those that have several
    devices and that no axis before it has, the first ones, as many as divide its size together."""
    used, entries = set(), []
    for wanted, size in zip(targets, shape, strict=True):
        taken = [target for target in wanted if target not in used and mesh.shape[target] > 1]
        while size % math.prod(mesh.shape[target] for target in taken):
            taken.pop()
        used.update(taken)
        entries.append(tuple(taken) if len(taken) > 1 else taken[0] if taken else None)
    return PartitionSpec(*entries)


def parameter_shardings(parameters: Any, declarations: Any, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings for a tree of arrays (or shapes) and the matching tree of Declarations."""
    return jax.tree.map(
        lambda array, declaration: NamedSharding(mesh, parameter_spec(declaration, array.shape, mesh)),
        parameters,
        declarations,
    )
