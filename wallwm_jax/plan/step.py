"""A stage's own train step on shapes alone: nothing is allocated and no data is read."""

import contextlib
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import AbstractMesh, Mesh

from wallwm_jax.core.mesh import batch_sharding
from wallwm_jax.core.types import TrainingBatch
from wallwm_jax.plan.batches import abstract_batch
from wallwm_jax.train.checkpoint import Records
from wallwm_jax.train.families import FAMILIES, Families, family_of
from wallwm_jax.train.fit import Programs, make_programs
from wallwm_jax.train.run import Run
from wallwm_jax.train.settings import configured_stage
from wallwm_jax.train.stages import Stage, without_absent
from wallwm_jax.train.state import TrainState


class AbstractStep(NamedTuple):
    """`programs.step(state, batch)` is what `wallwm train` compiles; the arguments are ShapeDtypeStructs that carry
    their shardings."""

    run: Run
    programs: Programs
    batch: TrainingBatch

    @property
    def state(self) -> TrainState:
        return self.programs.state


def abstract_step(
    stage: Stage,
    config: ml_collections.ConfigDict,
    views: int,
    mesh: Mesh | AbstractMesh,
    *,
    remat: str | None = None,
    families: Families = FAMILIES,
) -> AbstractStep:
    """The train step of a stage on a mesh, whose devices may be absent.

    Args:
        views: cameras of the dataset.
        remat: None does as the config says.
        families: what the stage's family is looked up in.

    Raises InputError for what `train_stage` refuses: sections that the config lacks, bad values, a batch or towers that
    the mesh does not divide.
    """
    family = family_of(stage, families)
    family.check_config(stage, config)
    stage, settings = configured_stage(stage, config.stages[stage.name])
    family.check_mesh(stage, config, mesh, settings.run.accumulate)
    model = family.planned(config, views, remat)
    batch = abstract_batch(stage, config, family.variant(model), views, batch_sharding(mesh))
    parameters, declarations = family.shapes(model, batch)
    stage = without_absent(stage, parameters)
    records = Records({}, {}, {}, {})
    run = Run(stage, model, declarations, settings, mesh, config.seed, records, pathlib.Path())
    with using(mesh):
        return AbstractStep(run, make_programs(run, parameters), batch)


def using(mesh: Mesh | AbstractMesh) -> contextlib.AbstractContextManager[Any]:
    """The context in which a step on this mesh is traced. `fit` sets the mesh itself, on whose devices constants would
    then be computed: here there may be none."""
    return jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh)
