"""Fresh parameters, drawn straight into the shards that a mesh wants.

A parameter's numbers do not depend on any mesh: block i of them, in row-major order, is drawn from the key, the
parameter's path and i. A process draws the blocks that its own shards overlap, each once, and keeps of them what its
shards hold: whatever the size of the model, no device holds more than its shards, and the host beside them one
parameter's shards and a block. Drawing inside a compiled `init` would compile a generator a parameter, which takes
minutes on a slow CPU, and would be another generator on every kind of device.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Sharding
from jaxtyping import PRNGKeyArray

from wallwm_jax.core.rng import substream
from wallwm_jax.core.trees import path_name
from wallwm_jax.nn.parameters import DeclaredParameter, is_boxed

BLOCK = 1 << 16
"""Numbers a call of the one compiled generator."""

Index = tuple[slice, ...]
"""Which part of an array a shard is, as `jax.sharding.Sharding` says it."""


@jax.jit
def _standard_normal(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (BLOCK,))


def materialise(abstract: Any, key: PRNGKeyArray, shardings: Any = None) -> Any:
    """Plain arrays for a boxed tree of shapes (`jax.eval_shape` of `init`).

    A parameter's numbers depend on `key` and its path alone: adding one changes no other.

    Args:
        shardings: the tree of the arrays' shardings, which may span the devices of several processes that all call
            this; None puts whole arrays on the default device.
    """
    # Where a mesh is set programs run on all of it: every process would have to draw the same blocks.
    here = jax.make_mesh((1,), ("own",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:1])
    data = np.asarray(jax.random.key_data(key))

    def numbers(path: tuple[Any, ...], box: DeclaredParameter, parts: Sequence[Index]) -> list[np.ndarray]:
        with jax.set_mesh(here):
            own = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
            return draw(box, substream(own, path_name(path)), parts)

    def make(path: tuple[Any, ...], box: DeclaredParameter, sharding: Sharding | None = None) -> jax.Array:
        shape = box.value.shape
        if sharding is None:
            return jnp.asarray(numbers(path, box, [(slice(None),) * len(shape)])[0])
        wanted = {_bounds(index, shape): index for index in sharding.addressable_devices_indices_map(shape).values()}
        drawn = dict(zip(wanted, numbers(path, box, list(wanted.values())), strict=True))
        return jax.make_array_from_callback(shape, sharding, lambda index: drawn[_bounds(index, shape)])

    trees = (abstract,) if shardings is None else (abstract, shardings)
    return jax.tree_util.tree_map_with_path(make, *trees, is_leaf=is_boxed)


def draw(box: DeclaredParameter, key: PRNGKeyArray, parts: Sequence[Index]) -> list[np.ndarray]:
    """These parts of the parameter in `box`, whose own key is `key`."""
    shape, dtype, init = box.value.shape, box.value.dtype, box.initializer
    shards = [_Shard(shape, part, dtype) for part in parts]
    if not init.standard_deviation:
        for shard in shards:
            shard.values[...] = init.mean
        return [shard.array for shard in shards]
    size = math.prod(shape)
    for number in range(-(-size // BLOCK)):
        first, last = number * BLOCK, min((number + 1) * BLOCK, size)
        wanting = [shard for shard in shards if shard.overlaps(first, last)]
        if not wanting:
            continue
        block = np.asarray(_standard_normal(jax.random.fold_in(key, number)))
        numbers = init.mean + init.standard_deviation * block
        for shard in wanting:
            shard.take(first, numbers[: last - first])
    return [shard.array for shard in shards]


class _Shard:
    """A part of an array that is filled bit by bit, in row-major order of the whole.

    The whole is seen as a matrix, whose columns run over the last axis of which the shard has a part, and all behind
    it: of every row that is the shard's it has the same columns.
    """

    def __init__(self, shape: tuple[int, ...], index: Index, dtype: Any):
        bounds = _bounds(index, shape)
        cut = max((axis for axis, size in enumerate(shape) if bounds[axis] != (0, size)), default=0)
        self.shape = tuple(last - first for first, last in bounds)
        self.sizes, self.bounds = shape[:cut], bounds[:cut]
        behind = math.prod(shape[cut + 1 :])
        self.width = math.prod(shape[cut:])
        self.first, self.last = (place * behind for place in (bounds[cut] if shape else (0, 1)))
        self.values = np.empty((math.prod(self.shape[:cut]), self.last - self.first), dtype)

    @property
    def array(self) -> np.ndarray:
        return self.values.reshape(self.shape)

    def overlaps(self, first: int, last: int) -> bool:
        """Whether any of the whole's numbers from `first` to `last` - 1 is the shard's."""
        return any(own.any() for *_, own, _ in self._pieces(first, last))

    def take(self, first: int, numbers: np.ndarray) -> None:
        """Keeps what is the shard's of the whole's `numbers` from `first` on."""
        for start, columns, left, own, places in self._pieces(first, first + len(numbers)):
            rows = numbers[start : start + len(own) * columns].reshape(len(own), columns)
            begin, end = max(left, self.first), min(left + columns, self.last)
            self.values[places[own], begin - self.first : end - self.first] = rows[own, begin - left : end - left]

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int, int, np.ndarray, np.ndarray]]:
        """The numbers from `first` to `last` - 1 as rectangles of the matrix, those that have a column of the shard's:
        where among the numbers it begins, its number of columns and the first of them, which of its rows are the
        shard's, and their places there."""
        at = first
        while at < last:
            row, left = divmod(at, self.width)
            whole = (last - at) // self.width if left == 0 else 0
            columns = self.width if whole else min(self.width - left, last - at)
            if left < self.last and left + columns > self.first:
                yield at - first, columns, left, *self._places(np.arange(row, row + max(whole, 1)))
            at += max(whole, 1) * columns

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own, places, stride = np.ones(len(rows), bool), np.zeros(len(rows), np.int64), 1
        for size, (first, last) in zip(reversed(self.sizes), reversed(self.bounds), strict=True):
            rows, at = np.divmod(rows, size)
            own &= (first <= at) & (at < last)
            places += stride * (at - first)
            stride *= last - first
        return own, places


def _bounds(index: Index, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(first, last + 1) along every axis."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
