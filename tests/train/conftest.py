"""The smallest real model, and short runs of its stages that compile once."""

import pathlib

import jax
import pytest

from tests.train.synthetic import LETTERS, random_batch, random_plan_batch
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.models.initialise import init_parameters, init_reasoner
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.models.reasoner_variants import reasoner_variant
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.train.architecture import architecture, reasoner_architecture
from wallwm_jax.train.checkpoint import Records
from wallwm_jax.train.families import family_of, stage_of
from wallwm_jax.train.run import Run
from wallwm_jax.train.settings import stage_settings

SETTINGS = {
    "steps": 11, "warmup_steps": 1, "log_every": 2, "eval_every": 4, "eval_batches": 1, "checkpoint_every": 3,
    "objective": {},
}  # fmt: skip


@pytest.fixture(scope="session")
def model():
    """The smallest real model."""
    return WorldAction(variant("micro"), views=2)


@pytest.fixture(scope="session")
def reasoner():
    """The smallest vision-language side."""
    return Reasoner(reasoner_variant("micro"), variant("micro"), 2, LETTERS)


@pytest.fixture(scope="session")
def initial_reasoner(reasoner):
    """(parameters, declarations); tests must not donate these parameters."""
    return init_reasoner(reasoner, jax.random.key(0), random_plan_batch(0))


@pytest.fixture(scope="session")
def families(model, initial, reasoner, initial_reasoner):
    """Of each family: model, (parameters, declarations), batch of a seed, architecture."""
    return {
        "world_action": (model, initial, random_batch, architecture(model)),
        "reasoner": (reasoner, initial_reasoner, random_plan_batch, reasoner_architecture(reasoner)),
    }


@pytest.fixture(scope="session")
def make_run(families):
    """`make_run(stage_name, directory)`: a short run of a stage. The same everywhere, so that it compiles once."""

    def make(stage_name, directory=pathlib.Path()):
        stage = stage_of(stage_name)
        model, (_, declarations), _, described = families[family_of(stage).name]
        records = Records({"seed": 0}, {"q": [0.5]}, {"name": "arm"}, described)
        settings = stage_settings(stage, SETTINGS)
        return Run(stage, model, declarations, settings, make_mesh("laptop"), 0, records, directory)

    return make


@pytest.fixture(scope="session")
def initial(model):
    """(parameters, declarations); tests must not donate these parameters."""
    return init_parameters(model, jax.random.key(0), random_batch(0))
