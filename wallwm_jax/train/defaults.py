"""Sections of a config with every key at its default. A config file starts from them, so that every key exists and can
be overridden on the command line."""

from typing import Any

import ml_collections

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
