"""Checksums of arrays that may lie in pieces in several processes, whatever the pieces.

SHA-256 of the files proves that they are what was written; these prove that what is read is what was trained. Of an
array with rows i (all axes but the last, flattened) and words w_ij (the bits of its numbers, 32 or fewer a word)

    c = sum_ij w_ij * r_i * s_j  mod 2^64,

r and s being odd numbers that SplitMix64 (Steele, Lea and Flood 2014) makes of i and j. A single changed word is always
noticed, of other changes one in 2^32 is not; and sums of pieces add up to the sum of the whole. It costs about a second
for a gigabyte, in a thread that does not hold Python's lock.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped, UInt64

Sums = dict[str, int]
"""By the name of an array: the sum over pieces of it."""
_BLOCK = 1 << 16
_MASK = (1 << 64) - 1


class ShardPiece(NamedTuple):
    """A part of an array in this process's memory: the whole's shape, the part's place in it, and its numbers."""

    shape: tuple[int, ...]
    index: tuple[slice, ...]
    values: Shaped[np.ndarray, "..."]


def spans_processes(leaf: Any) -> bool:
    """Whether other processes have parts of the array; if not, this one has it whole."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def own_pieces(named: Mapping[str, Any]) -> dict[str, list[ShardPiece]]:
    """Each piece of the arrays that lies on this process's devices, once, of several replicas the first; so that all
    processes together have an array that spans them once. Waits until the pieces are in its memory; what a save has
    copied there before is not copied again.
    """
    return {name: list(_pieces(leaf)) for name, leaf in named.items()}


def checksums(pieces: Mapping[str, Sequence[ShardPiece]]) -> Sums:
    """The sums over the pieces of each array."""
    return {name: sum(map(_sum, parts)) & _MASK for name, parts in pieces.items()}


def total(sums: Iterable[Mapping[str, int]]) -> dict[str, str]:
    """The sums of all processes together: the checksums, as 16 hexadecimal digits."""
    found: Sums = {}
    for part in sums:
        for name, value in part.items():
            found[name] = (found.get(name, 0) + value) & _MASK
    return {name: f"{value:016x}" for name, value in found.items()}


def _pieces(leaf: Any) -> Iterator[ShardPiece]:
    if not isinstance(leaf, jax.Array):
        yield ShardPiece(leaf.shape, tuple(slice(0, size) for size in leaf.shape), np.asarray(leaf))
        return
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            yield ShardPiece(leaf.shape, shard.index, np.asarray(shard.data))


def _sum(piece: ShardPiece) -> int:
    """The piece's part of the sum of its array."""
    if not piece.values.size:
        return 0
    places = [np.arange(*part.indices(size)) for part, size in zip(piece.index, piece.shape, strict=True)]
    words = _words(piece.values)
    each = words.shape[-1] // max(piece.values.shape[-1] if piece.values.ndim else 1, 1)
    rows, columns = _flat(places[:-1], piece.shape[:-1]), (places or [np.zeros(1, np.int64)])[-1]
    columns = (columns[:, None] * each + np.arange(each)).reshape(-1)
    sums = np.zeros(len(rows), np.uint64)
    for first in range(0, len(columns), _BLOCK):
        block = slice(first, first + _BLOCK)
        factors, step = _odd(columns[block], salt=1), max(_BLOCK // len(columns[block]), 1)
        for row in range(0, len(rows), step):
            part = slice(row, row + step)
            sums[part] += words[part, block].astype(np.uint64) @ factors
    return int(np.dot(sums, _odd(rows, salt=2)))


def _words(values: np.ndarray) -> np.ndarray:
    """The bits of the numbers as whole numbers of at most 32 bits, [rows, words of a row]."""
    size = min(values.dtype.itemsize, 4)
    rows = math.prod(values.shape[:-1]) if values.ndim else 1
    return np.ascontiguousarray(values).reshape(rows, -1).view(f"uint{8 * size}")


def _flat(places: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Flat indices, in an array of this shape, of the rows at the given places of its axes."""
    found = np.zeros(1, np.int64)
    for along, size in zip(places, shape, strict=True):
        found = (found[:, None] * size + along).reshape(-1)
    return found


def _odd(numbers: np.ndarray, salt: int) -> UInt64[np.ndarray, "_"]:
    """The outputs of SplitMix64 at these positions, made odd."""
    bits = (numbers.astype(np.uint64) + np.uint64((salt << 56) + 1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))) | np.uint64(1)
