"""A linear map from actions to states, trained by the real loop: what takes seconds where a model takes minutes."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from tests.train.synthetic import random_batch
from wallwm_jax.core.axes import declare
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.train.checkpoint import Records
from wallwm_jax.train.family import ModelFamily
from wallwm_jax.train.run import Run, StageData, Start
from wallwm_jax.train.settings import configured_stage
from wallwm_jax.train.stages import Stage
from wallwm_jax.train.world_action import EVENTS

DECLARATIONS = {
    "linear": {"weight": declare("dof -> output"), "bias": declare("output")},
    "frozen": {"scale": declare("output")},
}
SETTINGS = {
    "steps": 12, "warmup_steps": 1, "log_every": 2, "eval_every": 4, "eval_batches": 1, "checkpoint_every": 3,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ToySettings:
    """Standard deviation of the noise on what is to be learned."""

    noise: float = 0.1

    def for_evaluation(self):
        return dataclasses.replace(self, noise=0.0)


class ToyModel:
    """The linear map."""

    def apply(self, variables, inputs, *, method):
        return getattr(self, method)(inputs, **variables["params"]["linear"])

    def image(self, inputs, weight, bias):
        return inputs @ weight + bias


TOY_MODEL = ToyModel()


def toy_loss(model, parameters, batch, key, settings):
    """Squared error of the mean action's image; the noise is the step's own."""
    mean = model.apply({"params": parameters}, batch.actions.mean(1), method="image")
    wanted = batch.state[:, 0] + settings.noise * jax.random.normal(key, mean.shape)
    loss = jnp.mean(jnp.square(mean * parameters["frozen"]["scale"] - wanted))
    return loss, {"events": batch.segment_mask.sum(), "tokens": jnp.asarray(1.0), "error_loss": loss}


TOY = Stage("toy", 9, frozenset({"linear"}), toy_loss, ToySettings, EVENTS, "none")


def toy_parameters() -> dict[str, Any]:
    weight = 0.1 * jax.random.normal(jax.random.key(0), (26, 26))
    return {"linear": {"weight": weight, "bias": jnp.zeros(26)}, "frozen": {"scale": jnp.ones(26)}}


def toy_start() -> Start:
    return Start.given(toy_parameters())


def toy_run(directory: pathlib.Path, fault=None, stage: Stage = TOY, **settings) -> Run:
    """A short run of the toy, and whatever settings differ."""
    stage, whole = configured_stage(stage, SETTINGS | settings)
    records = Records(
        {"seed": 0, "stages": {"toy": SETTINGS | settings}}, {"low": [0.5]}, {"views": ["front"]}, {"width": 26}
    )
    return Run(stage, TOY_MODEL, DECLARATIONS, whole, make_mesh("laptop"), 0, records, directory, fault=fault)


def toy_data(steps: int = 1000) -> StageData:
    return StageData(lambda first: (random_batch(100 + step) for step in range(first, steps)), (random_batch(99),))


def toy_family(number: int = TOY.number, **changes) -> ModelFamily:
    """A second family, as somebody outside the package would write it: one linear map and one stage."""
    parts = {
        "name": "toys",
        "stages": (dataclasses.replace(TOY, number=number, model_sections=("toy_model",)),),
        "build": lambda config, curated: TOY_MODEL,
        "architecture": lambda model: {"width": 26},
        "rebuild": lambda config, record: TOY_MODEL,
        "shapes": lambda model, batch: (jax.eval_shape(toy_parameters), DECLARATIONS),
        "init": lambda model, key, batch, mesh: (toy_parameters(), DECLARATIONS),
        "data": lambda stage, config, curated, eval_batches: toy_data(),
        "planned": lambda config, views, remat: TOY_MODEL,
        "variant": lambda model: None,
    }
    return ModelFamily(**(parts | changes))
