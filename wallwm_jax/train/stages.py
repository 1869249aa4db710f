"""What a training stage is: which parameters it trains, on which loss, from which batches."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from wallwm_jax.core.config import Section
from wallwm_jax.core.errors import InputError

DTYPES = {
    "UInt8": np.dtype(np.uint8),
    "Int": np.dtype(np.int32),
    "Float": np.dtype(np.float32),
    "Bool": np.dtype(np.bool_),
}
"""jaxtyping's kinds -> what the loaders fill them with."""


class BatchField(NamedTuple):
    """One array of a batch."""

    dims: tuple[str, ...]
    """Letters (`core.types`) or numbers of the shape."""
    dtype: np.dtype
    optional: bool
    """Whether None may stand in its place."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """One kind of training batch: where its settings stand in a config and what its arrays look like.

    Attributes:
      type: the NamedTuple of arrays; its annotations give the shape and dtype of every field (`core.types`).
      sections: top-level sections of the config that decide what is drawn.
      layers: paths of the config sections that hold the settings; a key of an earlier one overrides a later one's.
      sources: files of a curated dataset that batches are drawn from. A dataset may lack some of them.
      sizes: `sizes(stage, config, variant)` maps the letters of the annotations to sizes, from the config and from
        `ModelFamily.variant`; all but B (rows), V (views) and D, which are the same for every kind.
      tokens: `tokens(model, batch)` counts the tokens of a batch in which every slot is taken.
      check: `check(stage, config)` raises InputError for settings that cannot be.
      prepare: `prepare(stage, config, folder)` writes what the batches need into the curated dataset's folder, unless
        it is there; None if nothing is needed.
    """

    type: type
    sections: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...]
    sizes: Callable[..., Mapping[str, int]]
    tokens: Callable[..., int]
    check: Callable[..., Any]
    prepare: Callable[..., None] | None = None

    def fields(self) -> dict[str, BatchField]:
        """Every field of `type`, as its annotation says, `Float[np.ndarray, "B F"]` or the same `| None`."""
        found = {}
        for name, hint in typing.get_type_hints(self.type, include_extras=True).items():
            parts = typing.get_args(hint)
            array = parts[0] if parts else hint
            found[name] = BatchField(tuple(array.dim_str.split()), DTYPES[array.dtype.__name__], bool(parts))
        return found

    def section(self, config: Section) -> dict[str, Any]:
        """The settings of all layers as one section."""
        merged: dict[str, Any] = {}
        for path in reversed(self.layers):
            merged |= dict(_at(config, path))
        return merged


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage of a model family (`family.ModelFamily`). Everything that it does not train is frozen.

    Attributes:
      name: what configs, folders and the command line call it; unique among all families.
      number: a short alias of the name on the command line, unique in its family.
      trains: top-level names of the parameters that it trains.
      objective: `objective(model, parameters, batch, key, settings) -> (loss, metrics)`. For a part of a batch it is
        also given `portion=` and returns shares that add up to the whole batch's (`objectives.portions`).
      settings: the dataclass of the objective's settings.
      batches: what it learns from.
      captions: which texts the batches hold, in words.
      starts_from: the stage whose averaged parameters it starts from; None starts from fresh ones.
      takes: (tower, stage) pairs of towers that come from other stages.
      copies: (from, to) paths of parts that start as a copy of another part of the same shapes, where the model has
        both.
      optional: names of `trains` that a model may lack.
      model_sections: top-level sections of the config that describe the model.
    """

    name: str
    number: int
    trains: frozenset[str]
    objective: Callable[..., Any]
    settings: type
    batches: Batches
    captions: str
    starts_from: str | None = None
    takes: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    optional: frozenset[str] = frozenset()
    model_sections: tuple[str, ...] = ("model",)

    @property
    def sections(self) -> tuple[str, ...]:
        """The config's sections that decide what it learns, besides its own and the seed."""
        return (*self.batches.sections, *self.model_sections)


def batch_rows(stage: Stage, config: ml_collections.ConfigDict) -> tuple[str, int]:
    """(config key, rows of a global batch): the stage's own `rows`, or those of all stages with such batches.

    Raises InputError if no section says how many rows there are.
    """
    for place in (("stages", stage.name), *stage.batches.layers):
        rows = _at(config, place).get("rows")
        if rows is not None:
            return ".".join(("config", *place, "rows")), rows
    where = ".".join(("config", *stage.batches.layers[-1]))
    raise InputError(where, "no key 'rows'", "the rows of a global batch")


def _at(config: Section, path: tuple[str, ...]) -> Section:
    """The section at a path, an empty one where there is none."""
    section: Any = config
    for part in path:
        section = section.get(part, {})
    return section


def without_absent(stage: Stage, parameters: Mapping[str, Any]) -> Stage:
    """`stage` without its optional towers that a model with these parameters does not have."""
    return dataclasses.replace(stage, trains=stage.trains - (stage.optional - set(parameters)))
