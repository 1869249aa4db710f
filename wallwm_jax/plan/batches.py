"""Abstract batches: the shapes that `core.types` declares, with sizes that a config gives. No data is read."""

import typing
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from wallwm_jax.core.types import UNIFIED_DIMENSION, TrainingBatch
from wallwm_jax.models.variants import Variant
from wallwm_jax.train.stages import Stage, batch_rows

DTYPES = {"UInt8": np.uint8, "Int": np.int32, "Float": np.float32, "Bool": np.bool_}
"""jaxtyping's kinds -> what the loaders fill them with."""


def abstract_batch(
    stage: Stage, config: ml_collections.ConfigDict, variant: Variant, views: int, sharding: NamedSharding | None
) -> TrainingBatch:
    """A global batch of a stage as ShapeDtypeStructs; `variant` gives the size of pictures."""
    kind = stage.batches.type
    sizes = {"B": batch_rows(stage, config)[1], "V": views, "D": UNIFIED_DIMENSION}
    sizes |= stage.batches.sizes(stage, config, variant)
    fields = typing.get_type_hints(kind, include_extras=True)
    given = {name: hint for name, hint in fields.items() if name not in kind._field_defaults}
    return kind(**{name: _shaped(annotation, sizes, sharding) for name, annotation in given.items()})


def _shaped(annotation: Any, sizes: Mapping[str, int], sharding: NamedSharding | None) -> jax.ShapeDtypeStruct:
    """What an annotation such as `Float[np.ndarray, "B F V 3 3"]` says, or the same `| None`."""
    annotation = next(iter(typing.get_args(annotation)), annotation)
    shape = tuple(int(name) if name.isdecimal() else sizes[name] for name in annotation.dim_str.split())
    return jax.ShapeDtypeStruct(shape, DTYPES[annotation.dtype.__name__], sharding=sharding)
