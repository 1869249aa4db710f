"""A step that takes its batch in parts learns what one learns that takes it whole."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from tests.train.toy import TOY, toy_parameters, toy_run
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import abstract_mesh, check_batch
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.objectives.portions import WHOLE
from wallwm_jax.train.accumulation import summed
from wallwm_jax.train.families import family_of, stage_of, stages_of
from wallwm_jax.train.fit import make_programs
from wallwm_jax.train.settings import stage_settings

KEY = jax.random.key(3)
OBJECTIVES = {"video": {"caption_drop": {"low": 0.5}}, "action": {"draws": 2, "dct_weight": 0.1}}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(scope="module")
def case_of(families):
    """`case_of(stage)`: (model, parameters off their initial zeros, a batch of four rows of which the first two hold
    more than the last two, settings)."""

    def case(name, **run):
        stage = stage_of(name)
        model, (fresh, _), batch_of, _ = families[family_of(stage).name]
        generator = np.random.default_rng(1)
        parameters = jax.tree.map(lambda leaf: leaf + 0.05 * generator.normal(size=leaf.shape).astype("f"), fresh)
        batch = jax.tree.map(lambda leaf: leaf[np.array([0, 2, 1, 3])], batch_of(5, rows=4))
        objective = OBJECTIVES if name == "adaptation" else OBJECTIVES.get(name, {})
        section = {"steps": 9, "warmup_steps": 0, "objective": objective, **run}
        return model, parameters, batch, stage_settings(stage, section)

    return case


@pytest.mark.parametrize("name", [stage.name for stage in stages_of() if stage.name not in ("video", "action")])
def test_the_shares_of_parts_add_up(name, case_of):
    """Loss and every metric of both halves add up to the whole's within fp32 rounding, although each of them is a mean
    of its own and the halves differ in what they have of it; noise, times and dropped captions are those of the rows in
    the whole batch. (Adaptation holds the terms of video and actions.)"""
    model, parameters, batch, settings = case_of(name)
    objective = stage_of(name).objective

    def whole(parameters, batch):
        return objective(model, parameters, batch, KEY, settings.objective)

    def in_parts(parameters, batch):
        def of_part(rows, part):
            return (), objective(model, parameters, rows, KEY, settings.objective, portion=part)

        return summed(of_part, batch, 2, ())[1]

    expected, found = (jax.jit(function, compiler_options=QUICK)(parameters, batch) for function in (whole, in_parts))
    assert found[1].keys() == expected[1].keys() and len(found[1]) > 3
    for metric, value in {**expected[1], "loss": expected[0]}.items():
        np.testing.assert_allclose({**found[1], "loss": found[0]}[metric], value, rtol=1e-5, atol=1e-6, err_msg=metric)


def toy_of_portions(model, parameters, batch, key, settings, portion=WHOLE):
    """The toy's loss as an objective of portions: a noisy masked mean."""
    found = batch.actions @ parameters["linear"]["weight"] + parameters["linear"]["bias"]
    error = jnp.square(found * parameters["frozen"]["scale"] - portion.normal(key, found.shape)).mean(-1)
    loss = portion.mean(lambda whole: whole.action_mask)(error, batch.action_mask)
    return loss, {"events": batch.segment_mask.sum(), "tokens": batch.action_mask.sum(), "error_loss": loss}


def test_an_accumulated_step_is_a_step():
    """Gradients, metrics, evaluation and the update of a whole train step in four parts of a row are those of the batch
    at once."""
    stage = dataclasses.replace(TOY, objective=toy_of_portions)
    batch, results = random_batch(5, rows=4), []
    for accumulate in (1, 4):
        run = toy_run(pathlib.Path(), stage=stage, accumulate=accumulate)
        with jax.set_mesh(run.mesh):
            programs = make_programs(run, toy_parameters())
            state, metrics = programs.step(programs.create(toy_parameters()), batch)
            judged = programs.evaluation(toy_parameters(), batch, KEY)
        results.append({**named_leaves(state), **metrics, "judged": judged["error_loss"]})
    assert results[0]["events"] == 6 and results[0]["tokens"] == 28
    for name, leaf in results[0].items():
        np.testing.assert_allclose(results[1][name], leaf, rtol=1e-5, atol=1e-6, err_msg=name)


def test_rows_that_do_not_divide_into_parts_are_refused():
    """A device's rows must divide, not only the batch; a step has one part at least."""
    mesh = abstract_mesh("eight_devices", 8)
    check_batch(8, mesh, 2)
    with pytest.raises(InputError, match=r"accumulate: found 4, expected a divisor of the 2 rows"):
        check_batch(8, mesh, 4)
    with pytest.raises(InputError, match="accumulate"):
        stage_settings(stage_of("video"), {"steps": 9, "warmup_steps": 0, "accumulate": 0})
