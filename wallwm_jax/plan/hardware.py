"""Accelerators as rows: what one chip computes, holds and sends a second, as its maker publishes it."""

import dataclasses
from collections.abc import Mapping

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip; bytes and seconds, no factor of efficiency in any of them.

    Attributes:
      flops: dense bf16 FLOP/s.
      memory: HBM bytes.
      memory_bandwidth: HBM bytes/s.
      link_bandwidth: bytes/s that a chip sends over all links of its fast interconnect together; half of what is
        published as bidirectional.
      network_bandwidth: bytes/s that a chip sends between slices, or nodes; None where no number is published.
      domain: chips that the fast interconnect spans at most; None: a whole slice.
      devices: JAX devices a chip.
      rank: dimensions of a topology's name.
      ring: sides of a slice that are multiples of it are closed to rings; 0 for none.
      config: what the compiler calls the chip's configuration. None: it has no compiler here, plans are analytic.
      host: chips a host, as the compiler is told them.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float | None = None
    domain: int | None = None
    devices: int = 1
    rank: int = 3
    ring: int = 0
    config: str | None = None
    host: tuple[int, int, int] = (2, 2, 1)


CHIPS: Mapping[str, Chip] = {
    # https://cloud.google.com/tpu/docs/v4; 2400 Gbit/s: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm
    "v4": Chip(275e12, 32 * GIB, 1200e9, 300e9, ring=4, config="megacore"),
    # https://cloud.google.com/tpu/docs/v5e: 400 GB/s bidirectional; 6.4 Tbit/s between pods of 256 chips
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, 3.125e9, rank=2, ring=16, config="default"),
    # https://cloud.google.com/tpu/docs/v5p: 1200 GB/s bidirectional, 50 Gbit/s a chip between slices
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, 6.25e9, ring=4, config="megacore"),
    # https://cloud.google.com/tpu/docs/v6e: 800 GB/s bidirectional; 100 Gbit/s: https://cloud.google.com/tpu/docs/tpu7x
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, 12.5e9, rank=2, ring=16, config="default"),
    # https://cloud.google.com/tpu/docs/tpu7x: 1200 GB/s bidirectional, 100 Gbit/s a chip between slices
    "tpu7x": Chip(2307e12, 192 * GIB, 7380e9, 600e9, 12.5e9, devices=2, ring=4, config="default"),
    # SXM, 80 GB: https://www.nvidia.com/en-us/data-center/a100, NVLink 600 GB/s in both directions; a node of 8 and its
    # network, 200 Gbit/s a GPU: https://docs.nvidia.com/dgx/dgxa100-user-guide
    "a100": Chip(312e12, 80e9, 2039e9, 300e9, 25e9, domain=8, rank=1),
    # SXM: https://www.nvidia.com/en-us/data-center/h100, half of the sparse FLOP/s, NVLink 900 GB/s in both directions;
    # a node of 8 and its network, 400 Gbit/s a GPU: https://docs.nvidia.com/dgx/dgxh100-user-guide
    "h100": Chip(989e12, 80e9, 3350e9, 450e9, 50e9, domain=8, rank=1),
    # SXM: https://www.nvidia.com/en-us/data-center/h200; nodes as those of h100
    "h200": Chip(989e12, 141e9, 4800e9, 450e9, 50e9, domain=8, rank=1),
}
