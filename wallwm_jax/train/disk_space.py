"""Whether a disk has room for the checkpoints of a run."""

import math
import pathlib
import shutil
from typing import Any

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves

_OF_AN_ARRAY, _OF_A_STEP = 1024, 512 * 1024
"""Bytes; see `checkpoint_bytes`."""


def checkpoint_bytes(state: Any) -> int:
    """The most that a checkpoint of a (possibly abstract) state takes on a disk.

    Orbax writes the arrays compressed. Trained numbers hardly shrink (fp32 by 7 %, bf16 by 22 %), whole numbers grow by
    the frames of the compressor; so they count as they are and 1/256 more. Of every array it writes its name and layout
    into several indices, and the manifest has them again: `_OF_AN_ARRAY` and 16 times the name. Then there are indices,
    records and the last, half empty blocks of some dozen files: `_OF_A_STEP`.
    """
    named = named_leaves(state)
    arrays = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in named.values())
    return arrays + arrays // 256 + sum(_OF_AN_ARRAY + 16 * len(name) for name in named) + _OF_A_STEP


def check_space(directory: pathlib.Path, state: Any, keep: int) -> None:
    """Raises InputError unless the disk has room for the checkpoints of a run: those that are kept and one under way,
    of a (possibly abstract) state. What lies in `directory` already counts as room."""
    one = checkpoint_bytes(state)
    there = sum(512 * path.stat().st_blocks for path in directory.rglob("*") if path.is_file())
    needed, free = one * (keep + 1) - there, shutil.disk_usage(directory).free
    if free < needed:
        expected = f"{needed / 1e6:.1f} MB or more, for {keep + 1} checkpoints of {one / 1e6:.1f} MB"
        raise InputError(f"free space for {directory}", f"{free / 1e6:.1f} MB", expected)
