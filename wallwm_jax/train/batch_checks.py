"""Checks of what a loader hands to the train step: shapes, dtypes and finite numbers, field by field.

They run where batches are read ahead (`prefetch`), not in the step, and only if `config.checks` says so.
"""

from collections.abc import Iterable
from typing import Any

import chex
import numpy as np

from wallwm_jax.core.errors import RunError
from wallwm_jax.train.run import StageData
from wallwm_jax.train.stages import Batches, Stage


def check_batch(batch: Any, batches: Batches) -> None:
    """Raises AssertionError, naming the field, unless a batch is what its type's annotations say.

    Every field must have its dtype, and finite numbers where these are floats; a letter of the annotations must stand
    for one size in all fields.
    """
    chex.assert_equal(type(batch), batches.type)
    sizes: dict[str, int] = {}
    for name, (dims, dtype, optional) in batches.fields().items():
        array = getattr(batch, name)
        if array is None and optional:
            continue
        try:
            chex.assert_rank(array, len(dims))
            given = zip(dims, np.shape(array), strict=True)
            expected = tuple(int(dim) if dim.isdecimal() else sizes.setdefault(dim, size) for dim, size in given)
            chex.assert_shape(array, expected)
            chex.assert_type(array, dtype)
            if np.issubdtype(dtype, np.floating):
                chex.assert_tree_all_finite(array)
        except AssertionError as error:
            raise AssertionError(f"field {name}: {error}") from error


def checked(data: StageData, stage: Stage) -> StageData:
    """The same data, every batch checked before it is used.

    The held-out batches are checked at once. Raises RunError naming the field, for a training batch when it is read.
    """

    def train(step: int) -> Iterable[Any]:
        batches = iter(data.train(step))
        try:
            for number, batch in enumerate(batches, step):
                _check(batch, stage, f"of step {number + 1}")
                yield batch
        finally:
            if hasattr(batches, "close"):  # a generator, which may hold worker processes
                batches.close()

    for number, batch in enumerate(data.heldout, 1):
        _check(batch, stage, f"{number} held out")
    return StageData(train, data.heldout)


def _check(batch: Any, stage: Stage, which: str) -> None:
    try:
        check_batch(batch, stage.batches)
    except AssertionError as error:
        text = " ".join(str(error).split())
        raise RunError(f"stage {stage.name}: the batch {which} is not what the step expects: {text}") from error
