"""Abstract batches: the shapes that `core.types` declares, with sizes that a config gives. No data is read."""

import typing
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from wallwm_jax.core.types import UNIFIED_DIMENSION, TrainingBatch
from wallwm_jax.data.settings import FRAMES_PER_LATENT
from wallwm_jax.models.variants import Variant
from wallwm_jax.train.sides import SIDES, batch_rows, loader_settings, plan_settings
from wallwm_jax.train.stages import Stage

DTYPES = {"UInt8": np.uint8, "Int": np.int32, "Float": np.float32, "Bool": np.bool_}
"""jaxtyping's kinds -> what the loaders fill them with."""


def abstract_batch(
    stage: Stage, config: ml_collections.ConfigDict, variant: Variant, views: int, sharding: NamedSharding | None
) -> TrainingBatch:
    """A global batch of a stage as ShapeDtypeStructs. Pictures are square, `variant.cells` cells a side."""
    kind = SIDES[stage.side].batch
    sizes = {"B": batch_rows(stage, config)[1], "V": views, "D": UNIFIED_DIMENSION}
    sizes |= (_event_sizes if stage.side == "world_action" else _moment_sizes)(stage, config, variant)
    fields = typing.get_type_hints(kind, include_extras=True)
    given = {name: hint for name, hint in fields.items() if name not in kind._field_defaults}
    return kind(**{name: _shaped(annotation, sizes, sharding) for name, annotation in given.items()})


def _event_sizes(stage: Stage, config: ml_collections.ConfigDict, variant: Variant) -> dict[str, int]:
    settings = loader_settings(stage, config)
    pixels = variant.cells * settings.spatial_compression
    return {
        "F": settings.row_frames,
        "R": FRAMES_PER_LATENT,
        "H": pixels,
        "W": pixels,
        "h": variant.cells,
        "w": variant.cells,
        "A": settings.row_actions,
        "S": settings.segments,
        "L": settings.batch_text_length,
    }


def _moment_sizes(stage: Stage, config: ml_collections.ConfigDict, variant: Variant) -> dict[str, int]:
    settings, pixels = plan_settings(stage, config), variant.cells * config.data.spatial_compression
    return {
        "H": pixels,
        "W": pixels,
        "P": settings.prompt_length,
        "C": settings.caption_length,
        "R": settings.trace_length,
        "N": settings.notes_length,
        "L": config.data.text_length,
    }


def _shaped(annotation: Any, sizes: Mapping[str, int], sharding: NamedSharding | None) -> jax.ShapeDtypeStruct:
    """What an annotation such as `Float[np.ndarray, "B F V 3 3"]` says, or the same `| None`."""
    annotation = next(iter(typing.get_args(annotation)), annotation)
    shape = tuple(int(name) if name.isdecimal() else sizes[name] for name in annotation.dim_str.split())
    return jax.ShapeDtypeStruct(shape, DTYPES[annotation.dtype.__name__], sharding=sharding)
