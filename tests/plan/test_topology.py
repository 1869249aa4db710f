"""Names of topologies; what is not one is refused in one message."""

import importlib.util

import pytest

from tests.plan.conftest import needs_libtpu
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.plan.hardware import CHIPS
from wallwm_jax.plan.topology import absent_devices, parse_topology


@pytest.mark.parametrize(
    "text, chips, devices",
    [("v5p:4x4x4", 64, 64), ("v5e:16x16", 256, 256), ("tpu7x:2x2x1", 4, 8), ("h100:8", 8, 8)],
)
def test_names_say_how_many_devices_there_are(text, chips, devices):
    """Sides multiply; one chip of TPU7x is two devices."""
    topology = parse_topology(text)
    assert (topology.name, topology.chips, topology.devices) == (text, chips, devices)
    assert parse_topology("v5p:4x4x4", slices=3).devices == 192


@pytest.mark.parametrize(
    "text, slices, message",
    [
        ("v9:4x4", 1, r"--topology: found 'v9:4x4'.*v5p"),
        ("v5p:4x4", 1, r"3 positive sides.*v5p:4x4x4"),
        ("v5p:4x4x0", 1, "3 positive sides"),
        ("v5e:4xfour", 1, "2 positive sides"),
        ("v5p", 1, "3 positive sides"),
        ("v5p:2x2x1", 0, "--slices"),
        ("v4:2x2x1", 2, "no bandwidth between slices is published"),
        ("h100:8", 2, "given by their number"),
    ],
)
def test_what_is_no_topology_is_refused(text, slices, message):
    """Unknown chips, wrong numbers of sides, sides that are no numbers, slices that cannot be joined."""
    with pytest.raises(InputError, match=message):
        parse_topology(text, slices)


def test_fast_interconnects_end_at_slices_and_nodes():
    """Devices are numbered slice by slice; eight GPUs make a node."""
    assert parse_topology("v5p:2x2x1", slices=2).domains == (0,) * 4 + (1,) * 4
    assert parse_topology("h100:16").domains == (0,) * 8 + (1,) * 8


def test_without_a_compiler_only_the_analytic_part_is_left(monkeypatch):
    """GPUs have none here; a missing libtpu is named with the extra that brings it."""
    with pytest.raises(InputError, match="--analytic"):
        absent_devices(parse_topology("h100:8"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"libtpu: .*wallwm_jax\[plan\]"):
        absent_devices(parse_topology("v5p:2x2x1"))


def test_rows_of_chips_are_plausible():
    """A chip that computes more than it can be fed with 100 to 600 operations a byte of HBM, and sends less than it
    reads, is no misplaced power of ten."""
    for name, chip in CHIPS.items():
        assert 100 < chip.flops / chip.memory_bandwidth < 600, name
        assert chip.link_bandwidth < chip.memory_bandwidth, name
        assert chip.network_bandwidth is None or chip.network_bandwidth < chip.link_bandwidth, name


@needs_libtpu
def test_slices_are_parts_of_the_data_axis():
    """Whatever a mesh's other axes join lies in one slice; sizes that cannot be split so are refused."""
    mesh = make_mesh("pod", absent_devices(parse_topology("v5e:4x4", slices=2)))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 16, "sequence": 1, "tensor": 1}
    for row in mesh.devices.reshape(2, 16):
        assert len({device.slice_index for device in row}) == 1
    with pytest.raises(InputError, match="a multiple of the 2 slices"):
        make_mesh("host", absent_devices(parse_topology("v5p:2x2x1", slices=2)))
    with pytest.raises(InputError, match="what libtpu knows"):
        absent_devices(parse_topology("v5p:3x3x3"))
