"""From `config.model` to a model, and between a model and the JSON that a checkpoint keeps of it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from wallwm_jax.core.config import Section, check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.models.reasoner_variants import ReasonerVariant, reasoner_variant
from wallwm_jax.models.variants import Variant, variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.remat import check_remat
from wallwm_jax.nn.video_codec import HaarCodec

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(config: Section, views: int) -> WorldAction:
    """The model of `config.model` {variant, dtype, remat, unroll, cross_view, overrides} for `views` cameras.

    An override that is None leaves the variant's own value. Raises InputError on unknown keys, variants, fields, dtypes
    and remats.
    """
    check_keys(config, ("variant", "dtype", "remat", "unroll", "cross_view", "overrides"), "config.model")
    if "variant" not in config:
        raise InputError("config.model", "no key 'variant'", "the name of a size")
    options = {name: config[name] for name in ("remat", "unroll", "cross_view") if name in config}
    check_remat(options.get("remat", "none"))
    row = variant(config["variant"], _overrides(config))
    return WorldAction(row, views, dtype=_dtype(config.get("dtype", "float32")), **options)


def architecture(model: WorldAction) -> dict[str, Any]:
    """What decides the parameters' shapes and meaning, as JSON: the variant's fields, views, cross-view branch."""
    fields = json.loads(json.dumps(dataclasses.asdict(model.variant)))
    return {"variant": fields, "views": model.views, "cross_view": model.cross_view}


def model_of(record: Mapping[str, Any], *, dtype: str = "float32") -> WorldAction:
    """The model that `architecture` described."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in record["variant"].items()}
    if fields["codec"] is not None:
        fields["codec"] = HaarCodec(**fields["codec"])
    return WorldAction(Variant(**fields), record["views"], cross_view=record["cross_view"], dtype=_dtype(dtype))


def build_reasoner(config: Section, world: Variant, views: int, text_length: int) -> Reasoner:
    """The vision-language side of `config.reasoner` {variant, dtype, overrides}, for a world model of that size.

    Raises InputError on unknown keys, variants, fields and dtypes.
    """
    check_keys(config, ("variant", "dtype", "overrides"), "config.reasoner")
    if "variant" not in config:
        raise InputError("config.reasoner", "no key 'variant'", "the name of a size")
    row = reasoner_variant(config["variant"], _overrides(config))
    return Reasoner(row, world, views, text_length, _dtype(config.get("dtype", "float32")))


def reasoner_architecture(model: Reasoner) -> dict[str, Any]:
    """`architecture` of the vision-language side."""
    variant, world = (json.loads(json.dumps(dataclasses.asdict(row))) for row in (model.variant, model.world))
    return {"variant": variant, "world": world, "views": model.views, "text_length": model.text_length}


def reasoner_of(record: Mapping[str, Any], *, dtype: str = "float32") -> Reasoner:
    """The vision-language side that `reasoner_architecture` described."""
    world = model_of({"variant": record["world"], "views": record["views"], "cross_view": True}).variant
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in record["variant"].items()}
    return Reasoner(ReasonerVariant(**fields), world, record["views"], record["text_length"], _dtype(dtype))


def _overrides(config: Section) -> dict[str, Any]:
    """The fields of a size that a config sets, as the size's row holds them: a saved config has lists for tuples."""
    given = {name: value for name, value in (config.get("overrides") or {}).items() if value is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _dtype(name: str) -> Any:
    if name not in DTYPES:
        raise InputError("config.model.dtype", repr(name), f"one of {sorted(DTYPES)}")
    return DTYPES[name]
