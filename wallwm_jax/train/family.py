"""A model family: its stages, and how its models are built, initialised, described and fed."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections
from jax.sharding import AbstractMesh, Mesh

from wallwm_jax.core.config import Section
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import check_batch
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.train.run import StageData
from wallwm_jax.train.settings import StageSettings, stage_settings
from wallwm_jax.train.stages import Stage, batch_rows


def _no_check(*_: Any) -> None:
    """For a family without checks of its own."""


@dataclasses.dataclass(frozen=True)
class ModelFamily:
    """One kind of model, as training, planning and the command line need it.

    Attributes:
      name: unique among families.
      stages: its training stages, in the order in which a person would read them.
      build: `build(config, curated)` gives the model for a curated dataset.
      architecture: `architecture(model)` describes the model as JSON, which every checkpoint keeps.
      rebuild: `rebuild(config, record)` gives the model of a config and of what `architecture` said.
      shapes: `shapes(model, batch)` gives (parameters as ShapeDtypeStructs, their declarations).
      init: `init(model, key, batch, mesh)` gives the same with fresh arrays.
      data: `data(stage, config, curated, eval_batches)` gives training batches and `eval_batches` held-out ones.
      planned: `planned(config, views, remat)` gives the model for `views` cameras as a step is planned with it: without
        data or pretrained parts, with another `remat` unless that is None.
      variant: `variant(model)` gives the sizes that `Batches.sizes` reads, such as those of pictures.
      check: `check(stage, config)` raises InputError for a model that cannot be, and for sections that contradict each
        other.
      check_towers: `check_towers(stage, config, mesh)` raises InputError for towers that the mesh does not divide.
    """

    name: str
    stages: tuple[Stage, ...]
    build: Callable[[ml_collections.ConfigDict, CuratedDataset], Any]
    architecture: Callable[[Any], dict[str, Any]]
    rebuild: Callable[[ml_collections.ConfigDict, Mapping[str, Any]], Any]
    shapes: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    init: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    data: Callable[[Stage, ml_collections.ConfigDict, CuratedDataset, int], StageData]
    planned: Callable[[ml_collections.ConfigDict, int, str | None], Any]
    variant: Callable[[Any], Any]
    check: Callable[[Stage, ml_collections.ConfigDict], None] = _no_check
    check_towers: Callable[[Stage, ml_collections.ConfigDict, Mesh | AbstractMesh], None] = _no_check

    def check_mesh(
        self, stage: Stage, config: ml_collections.ConfigDict, mesh: Mesh | AbstractMesh, parts: int = 1
    ) -> None:
        """Raises InputError unless a mesh divides what it splits of a stage's batches, of each of their `parts`, and of
        the model's towers."""
        where, rows = batch_rows(stage, config)
        check_batch(rows, mesh, parts, where)
        self.check_towers(stage, config, mesh)

    def check_config(self, stage: Stage, config: ml_collections.ConfigDict) -> StageSettings:
        """The stage's settings. Raises InputError for a section that the stage needs and the config lacks, and for bad
        values in these sections."""
        require_sections(config, ("seed", "mesh", *stage.sections), f"stage {stage.name}")
        require_sections(config.get("stages", {}), (stage.name,), f"stage {stage.name}", "config.stages")
        settings = stage_settings(stage, config.stages[stage.name])
        stage.batches.check(stage, config)
        self.check(stage, config)
        return settings


def require_sections(config: Section, names: Iterable[str], reader: str, where: str = "config") -> None:
    """Raises InputError for the first of `names` that `config`, the section `where`, lacks; `reader` needs it."""
    for name in names:
        if name not in config:
            raise InputError(where, f"no {name!r}", f"what {reader} needs: {', '.join(names)}")
