"""Abstract batches: the shapes that `core.types` declares, with sizes that a config gives. No data is read."""

from typing import Any

import jax
import ml_collections
from jax.sharding import NamedSharding

from wallwm_jax.core.types import UNIFIED_DIMENSION, TrainingBatch
from wallwm_jax.train.stages import Stage, batch_rows


def abstract_batch(
    stage: Stage, config: ml_collections.ConfigDict, variant: Any, views: int, sharding: NamedSharding | None
) -> TrainingBatch:
    """A global batch of a stage as ShapeDtypeStructs; `variant` gives the size of pictures."""
    sizes = {"B": batch_rows(stage, config)[1], "V": views, "D": UNIFIED_DIMENSION}
    sizes |= stage.batches.sizes(stage, config, variant)
    fields = {}
    for name, field in stage.batches.fields().items():
        if name not in stage.batches.type._field_defaults:
            shape = tuple(int(dim) if dim.isdecimal() else sizes[dim] for dim in field.dims)
            fields[name] = jax.ShapeDtypeStruct(shape, field.dtype, sharding=sharding)
    return stage.batches.type(**fields)
