"""Topologies are tables; a batch or a device count that does not fit is refused."""

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from wallwm_jax.core import mesh as meshes
from wallwm_jax.core.axes import declare
from wallwm_jax.core.errors import InputError


def abstract(data, fsdp, tensor):
    return AbstractMesh((data, fsdp, tensor), meshes.MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def test_laptop_mesh_runs_on_one_device():
    """The laptop mesh exists on any machine."""
    assert dict(meshes.make_mesh("laptop").shape) == {"data": 1, "fsdp": 1, "tensor": 1}


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


def test_parameters_use_a_mesh_axis_once_and_only_if_it_divides():
    """A matrix between two sharded widths must not name a mesh axis twice; odd sizes are replicated."""
    mesh = abstract(1, 4, 2)
    assert meshes.parameter_spec(declare("embed -> action_embed"), (8, 8), mesh) == PartitionSpec("fsdp", None)
    assert meshes.parameter_spec(declare("embed -> mlp"), (8, 6), mesh) == PartitionSpec("fsdp", "tensor")
    assert meshes.parameter_spec(declare("embed -> mlp"), (6, 7), mesh) == PartitionSpec(None, None)
