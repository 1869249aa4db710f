"""What is to be planned for: slices of chips by name ("v5p:4x4x4"), and their devices, present or not."""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

from wallwm_jax.core.errors import InputError
from wallwm_jax.plan.hardware import CHIPS, Chip

TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or a second process fails on a lock file
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""What lets libtpu compile where no TPU is, and be silent about it."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` slices of `shape` chips each."""

    chip_name: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip:
        return CHIPS[self.chip_name]

    @property
    def name(self) -> str:
        return f"{self.chip_name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.chips * self.chip.devices

    @property
    def domains(self) -> tuple[int, ...]:
        """Of every device, in a mesh's order, the number of the fast interconnect that it hangs on."""
        chips = min(math.prod(self.shape), self.chip.domain or self.chips)
        return tuple(number // (chips * self.chip.devices) for number in range(self.devices))


def parse_topology(text: str, slices: int = 1) -> Topology:
    """The topology of a name such as "v5p:4x4x4", "v5e:16x16" or "h100:8"; raises InputError for any other."""
    chip_name, _, sides = text.partition(":")
    if chip_name not in CHIPS:
        raise InputError("--topology", repr(text), f"CHIP:SIDES with a chip of {sorted(CHIPS)}")
    rank = CHIPS[chip_name].rank
    shape = tuple(int(side) for side in sides.split("x") if side.isdecimal() and int(side) > 0)
    if len(shape) != rank or len(sides.split("x")) != rank:
        example = {1: "8", 2: "4x4", 3: "4x4x4"}[rank]
        raise InputError(
            "--topology", repr(text), f"{rank} positive sides for {chip_name}, as in {chip_name}:{example}"
        )
    if slices < 1:
        raise InputError("--slices", slices, "at least 1")
    if slices > 1 and CHIPS[chip_name].domain is not None:
        raise InputError("--slices", slices, f"1: {chip_name}s are given by their number, nodes of 8")
    if slices > 1 and CHIPS[chip_name].network_bandwidth is None:
        raise InputError("--slices", slices, f"1: no bandwidth between slices is published for {chip_name}")
    return Topology(chip_name, shape, slices)


def absent_devices(topology: Topology) -> Sequence[Any]:
    """Devices of a TPU topology that programs can be compiled for; nothing can run on them.

    Raises InputError where libtpu is missing, has another version, or does not know the topology.
    """
    if topology.chip.config is None:
        raise InputError("--topology", topology.name, "a TPU: only the analytic part (--analytic) knows GPUs")
    if importlib.util.find_spec("libtpu") is None:
        expected = "pip install 'wallwm_jax[plan]', or --analytic"
        raise InputError("libtpu", "no such package, which holds the compiler", expected)
    for name, value in TPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # What keeps libtpu from asking who it is; any name of a real slice does.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    chip, sides = topology.chip, (*topology.shape, 1, 1)[:3]
    host = tuple(min(side, most) for side, most in zip(sides, chip.host, strict=True))
    try:
        # Without wrap links and the chip's configuration the compiler plans for another machine, and not for its HBM.
        return topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology.name,
            chip_config_name=chip.config,
            chips_per_host_bounds=host,
            num_slices=topology.slices,
            wrap=tuple(side % chip.ring == 0 for side in sides),
        ).devices
    except JaxRuntimeError as error:
        raise InputError("--topology", topology.name, f"what libtpu knows ({str(error).splitlines()[0]})") from error
