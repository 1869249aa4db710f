"""Checksums: the same for an array however it is cut, another one for another array."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from wallwm_jax.train.checksums import ShardPiece, checksums, own_pieces, total

DTYPES = (np.float32, ml_dtypes.bfloat16, np.int32, np.uint8, bool, np.float16)
shapes = st.lists(st.integers(1, 7), max_size=4).map(tuple)


def _checksum(array):
    return total([checksums(own_pieces({"array": array}))])["array"]


def _random(shape, dtype, seed):
    bits = np.random.default_rng(seed).integers(0, 256, size=(*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    array = np.ascontiguousarray(bits).reshape(-1).view(np.uint8 if dtype is bool else dtype).reshape(shape)
    return np.asarray(array % 2 == 1) if dtype is bool else array


@hypothesis.given(shapes, st.sampled_from(DTYPES), st.data())
def test_pieces_add_up(shape, dtype, data):
    """Cut along any axes into any parts, summed by several processes in any order."""
    array = _random(shape, dtype, 0)
    pieces = [(tuple(slice(0, size) for size in shape), array)]
    for axis in range(len(shape)):
        cut = data.draw(st.integers(0, shape[axis]))
        halves = []
        for index, _ in pieces:
            for part in (slice(0, cut), slice(cut, shape[axis])):
                halves.append((*index[:axis], part, *index[axis + 1 :]))
        pieces = [(index, array[index]) for index in halves]
    parts = [checksums({"array": [ShardPiece(shape, *piece)]}) for piece in data.draw(st.permutations(pieces))]
    assert total(parts)["array"] == _checksum(array)


@hypothesis.given(shapes, st.sampled_from(DTYPES), st.data())
def test_a_flipped_bit_is_another_checksum(shape, dtype, data):
    """Any bit of any number, in arrays of any shape."""
    array = _random(shape, dtype, 1)
    other = array.copy().reshape(-1).view(np.uint8)
    place = data.draw(st.integers(0, other.size - 1))
    other[place] ^= 1 if dtype is bool else 1 << data.draw(st.integers(0, 7))
    assert _checksum(other.view(array.dtype).reshape(shape)) != _checksum(array)


def test_exchanged_numbers_are_another_checksum():
    """Rows, columns and single numbers in other places, and the same numbers in another shape."""
    array = _random((50, 60), np.float32, 2)
    swapped = array.copy()
    swapped[[3, 7], [5, 9]] = swapped[[7, 3], [9, 5]]
    others = [array, swapped, array[::-1], array[:, ::-1], array.T.copy(), array.reshape(60, 50), np.roll(array, 1, 0)]
    assert len({_checksum(other) for other in others}) == len(others)


def test_blocks_are_no_seams():
    """Arrays longer than a block, by rows and by columns, are summed as a plain sum says."""
    for shape in ((3, 70_000), (70_000, 3), (140_000,)):
        array = _random(shape, np.float32, 3)
        halves = [(slice(0, 2), slice(2, None)), (slice(0, 69_999), slice(69_999, None))][
            len(shape) == 1 or shape[0] > 9
        ]
        pieces = [ShardPiece(shape, (half, *(slice(0, size) for size in shape[1:])), array[half]) for half in halves]
        assert total([checksums({"array": pieces})])["array"] == _checksum(array)


@pytest.mark.parametrize("value", [np.float32(3.5), np.zeros((0, 4), np.float32), np.zeros((2, 0), np.int32)])
def test_scalars_and_empty_arrays(value):
    """Have checksums like others; a jax array the same as its numbers."""
    assert _checksum(np.asarray(value)) == _checksum(jnp.asarray(value))


def test_shardings_do_not_matter():
    """An array on a device is what it is in memory."""
    array = _random((8, 6), np.float32, 4)
    assert _checksum(jax.device_put(array, jax.local_devices()[0])) == _checksum(array)
