"""Which devices take part in a collective: the spellings of HLO's replica groups."""

import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTS = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


def replica_groups(attributes: str, devices: int) -> Int[np.ndarray, "group member"]:
    """The groups of a collective as indices of devices; all in one group where none is named.

    Raises ValueError for a spelling that is not known.
    """
    if match := _MESH.search(attributes):
        order = _iota(_numbers(match[2]), match[3]) if match[2] else None
        return _of_mesh(match[1], match[4], order)
    if match := _IOTA.search(attributes):
        return _iota(_numbers(match[2]), match[3]).reshape(_numbers(match[1]))
    match = _LISTS.search(attributes)
    if match and match[1]:
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]*)\}", match[1])])
    if match is None and "replica_groups=" in attributes:
        raise ValueError(f"replica groups {attributes.split('replica_groups=')[1][:80]!r}")
    return np.arange(devices)[None]


def permuted_pairs(attributes: str) -> Int[np.ndarray, "pair 2"]:
    """(source, target) of every device that a permutation sends from."""
    match = _PAIRS.search(attributes)
    pairs = re.findall(r"\{(\d+),(\d+)\}", match[1]) if match else []
    return np.array(pairs, int).reshape(-1, 2)


def members(groups: Int[np.ndarray, "group member"], slices: Sequence[int]) -> tuple[int, int]:
    """(devices of a group inside a slice, slices that a group spans); `slices` is every device's."""
    found = np.asarray(slices)[groups[0]]
    spanned = len(set(found.tolist()))
    return len(found) // spanned, spanned


def _of_mesh(axes: str, chosen: str, order: Int[np.ndarray, "..."] | None) -> Int[np.ndarray, "group member"]:
    """`mesh['a'=4,'b'=16] {'b'}`: groups along the chosen axes of a mesh of all devices in their order, or in `order`.
    A part of an axis is written `'b':(2)4`, (what stands before it)its own size."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    parts: dict[str, list[int]] = {name: [size] for name, size in sizes.items()}
    taken: dict[str, int] = {}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        if size:
            parts[name] = [int(before), int(size), sizes[name] // int(before) // int(size)]
        taken[name] = 1 if size else 0
    shape = [size for name in sizes for size in parts[name]]
    names = [(name, place) for name in sizes for place in range(len(parts[name]))]
    inside = [index for index, (name, place) in enumerate(names) if taken.get(name) == place]
    outside = [index for index in range(len(names)) if index not in inside]
    devices = np.arange(math.prod(shape)) if order is None else order
    grid = devices.reshape(shape).transpose(outside + inside)
    return grid.reshape(-1, math.prod(shape[index] for index in inside))


def _iota(shape: tuple[int, ...], transposed: str | None) -> Int[np.ndarray, "..."]:
    """0, 1, ... laid out row-major, and then transposed."""
    order = _numbers(transposed) if transposed else range(len(shape))
    return np.arange(math.prod(shape)).reshape(shape).transpose(order)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
