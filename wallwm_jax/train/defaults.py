"""Sections of a config with every key at its default. A config file starts from them, so that every key exists and can
be overridden on the command line."""

import dataclasses
import typing
from typing import Any

import ml_collections
from ml_collections import config_dict

from wallwm_jax.models.reasoner_variants import ReasonerVariant
from wallwm_jax.models.variants import Variant
from wallwm_jax.train.families import FAMILIES, Families, stage_of
from wallwm_jax.train.settings import default_section


def default_config(name: str, families: Families = FAMILIES, **changes: Any) -> ml_collections.ConfigDict:
    """`config.stages.<name>` with every key at its default, and `changes` applied.

    Raises InputError for a name that is no stage's.
    """
    config = ml_collections.ConfigDict(default_section(stage_of(name, families)))
    config.lock()
    config.update(changes)
    return config


def default_model(variant: str, **changes: Any) -> ml_collections.ConfigDict:
    """`config.model` for a size of `models.variants`, with every key at its default, and `changes` applied.

    Every field of the size is a key of `overrides`, None until it is set.
    """
    keys = {"variant": variant, "dtype": "float32", "remat": "none", "unroll": 1, "cross_view": True}
    return _section(keys | changes, Variant)


def default_reasoner(variant: str, **changes: Any) -> ml_collections.ConfigDict:
    """`config.reasoner` for a size of `models.reasoner_variants`, likewise."""
    return _section({"variant": variant, "dtype": "float32"} | changes, ReasonerVariant)


def _section(keys: dict[str, Any], row: type) -> ml_collections.ConfigDict:
    section = ml_collections.ConfigDict(keys)
    section.overrides = ml_collections.ConfigDict()
    hints = typing.get_type_hints(row)
    for field in dataclasses.fields(row):
        kind = typing.get_origin(hints[field.name]) or hints[field.name]
        if kind in (bool, int, float, str, tuple):  # a codec cannot be written on a command line
            section.overrides[field.name] = config_dict.placeholder(kind)
    return section.lock()
