"""Topologies are tables; a batch or a device count that does not fit is refused."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from wallwm_jax.core import mesh as meshes
from wallwm_jax.core.axes import declare
from wallwm_jax.core.errors import InputError


def abstract(data, fsdp, tensor, sequence=1):
    return AbstractMesh((data, fsdp, sequence, tensor), meshes.MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def test_laptop_mesh_runs_on_one_device():
    """The laptop mesh exists on any machine."""
    assert dict(meshes.make_mesh("laptop").shape) == {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}


def test_the_documented_table_is_the_table():
    """The topologies of the module's docstring have the sizes of `TOPOLOGIES`, in the order of `MESH_AXES`."""
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in meshes.__doc__.splitlines() if "|" in line]
    assert next(row for row in rows if row[0] == "topology")[1:-1] == list(meshes.MESH_AXES)
    sizes = {row[0]: tuple(map(int, row[1:-1])) for row in rows if row[0] in meshes.TOPOLOGIES}
    assert sizes == {name: topology.sizes for name, topology in meshes.TOPOLOGIES.items()}


def test_wrong_names_and_device_counts_are_refused():
    """The message names the field, the devices found and the table's row."""
    with pytest.raises(InputError, match=r"config\.mesh"):
        meshes.make_mesh("palmtop")
    with pytest.raises(InputError, match="3 devices"):
        meshes.make_mesh("eight_devices", devices=list(jax.devices())[:1] * 3)


def test_batch_must_divide_over_the_mesh():
    """Rows are split over data and fsdp, not over tensor."""
    meshes.check_batch(8, abstract(2, 2, 2))
    with pytest.raises(InputError, match=r"config.data.rows: found 6, expected a multiple of 4"):
        meshes.check_batch(6, abstract(2, 2, 2))


def test_tokens_and_heads_must_divide_over_the_sequence_axis():
    """Heads are split by tensor and sequence together; without a sequence axis nothing is asked."""
    tokens, heads = {"row_frames": 6}, {"heads": 12}
    meshes.check_sequence(tokens, heads, abstract(1, 1, 2, sequence=2))
    meshes.check_sequence({"row_frames": 7}, {"heads": 7}, abstract(2, 2, 2))
    with pytest.raises(InputError, match="row_frames: found 6, expected a multiple of 4"):
        meshes.check_sequence(tokens, heads, abstract(1, 1, 1, sequence=4))
    with pytest.raises(InputError, match="heads: found 12, expected a multiple of 8"):
        meshes.check_sequence(tokens, heads, abstract(1, 1, 4, sequence=2))


@dataclasses.dataclass(frozen=True)
class TorusDevice:
    """All that JAX reads of a TPU to find its place in a mesh."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    core_on_chip: int = 0
    slice_index: int = 0


@pytest.mark.parametrize("sides", [(4, 4, 4), (8, 8, 8), (8, 8, 16)])
def test_a_pod_of_any_sides_has_a_mesh(sides):
    """An axis of 16 devices is cut from sides of 8 where no sides make it up; every device has one place, and the
    devices of an axis lie in one block of the torus."""
    devices = [TorusDevice(number, coords) for number, coords in enumerate(np.ndindex(*sides))]
    mesh = meshes.make_mesh("pod", devices)
    assert mesh.devices.shape == (math.prod(sides) // 16, 16, 1, 1)
    assert len(set(mesh.devices.flat)) == len(devices)
    for row in mesh.devices.reshape(-1, 16):
        corners = np.array([device.coords for device in row])
        assert math.prod(len(np.unique(corners[:, axis])) for axis in range(3)) == 16


@dataclasses.dataclass(frozen=True)
class Device:
    """All that `row_share` reads of one."""

    id: int
    process_index: int


def shares(sizes, processes):
    """Every process's share; devices go to processes in turn, as many as there are numbers."""
    devices = np.empty(len(processes), object)
    devices[:] = [Device(*pair) for pair in enumerate(processes)]
    mesh = Mesh(devices.reshape(sizes), meshes.MESH_AXES)
    return [meshes.row_share(mesh, process) for process in sorted(set(processes))]


def test_processes_with_the_same_rows_load_the_same_rows():
    """One process has all; without sequence and tensor each of four has its own; over a sequence axis of two processes
    two and two have the same; rows of which only some are shared are refused."""
    assert shares((2, 1, 1, 2), [0, 0, 0, 0]) == [(0, 1)]
    assert shares((4, 1, 1, 1), [0, 1, 2, 3]) == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert shares((1, 2, 2, 1), [0, 1, 2, 3]) == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert shares((1, 2, 2, 1), [0, 1, 0, 1]) == [(0, 1), (0, 1)]
    with pytest.raises(InputError, match="all rows in common, or none"):
        shares((1, 3, 2, 1), [0, 0, 0, 1, 1, 1])


def test_parameters_use_a_mesh_axis_once_and_only_if_it_divides():
    """A matrix between two sharded widths must not name a mesh axis twice; odd sizes are replicated."""
    mesh = abstract(1, 4, 2)
    assert meshes.parameter_spec(declare("embed -> action_embed"), (8, 8), mesh) == PartitionSpec("fsdp", None)
    assert meshes.parameter_spec(declare("embed -> mlp"), (8, 6), mesh) == PartitionSpec("fsdp", "tensor")
    assert meshes.parameter_spec(declare("embed -> mlp"), (6, 7), mesh) == PartitionSpec(None, None)


def test_parameters_lie_over_fsdp_and_sequence():
    """Devices that share a row's tokens share its parameters too; where only the first axis divides, it alone cuts."""
    mesh = abstract(1, 4, 2, sequence=2)
    assert meshes.parameter_spec(declare("embed -> mlp"), (8, 6), mesh) == PartitionSpec(("fsdp", "sequence"), "tensor")
    assert meshes.parameter_spec(declare("embed -> mlp"), (12, 6), mesh) == PartitionSpec("fsdp", "tensor")
