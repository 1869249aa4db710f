"""One step: frozen means frozen, whoever says so; a bad gradient changes nothing."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.test_fit import Silent
from tests.train.toy import TOY, toy_data, toy_parameters, toy_run, toy_start
from wallwm_jax.core.axes import declare
from wallwm_jax.core.mesh import abstract_mesh, batch_sharding, parameter_shardings, replicated
from wallwm_jax.core.trees import digest, named_leaves
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import OptimizerSettings, build_optimizer
from wallwm_jax.train.families import family_of, stages_of
from wallwm_jax.train.fit import fit, make_programs
from wallwm_jax.train.metrics import read_metrics
from wallwm_jax.train.nonfinite import SkipWatch
from wallwm_jax.train.prefetch import to_mesh
from wallwm_jax.train.state import averaged_parameters, placement_by


@pytest.fixture(scope="module", params=[stage.name for stage in stages_of()])
def trained(request, make_run, families):
    """(run, state before, state after four steps, metrics of the last, programs, a batch) of each stage. Four: the
    head, the cross-view output and then what it reads start from zeros, one behind the other."""
    run = make_run(request.param)
    _, (parameters, _), batch_of, _ = families[family_of(run.stage).name]
    with jax.set_mesh(run.mesh):
        programs, parameters = make_programs(run, parameters), jax.device_get(parameters)
        before, after = programs.create(parameters), programs.create(parameters)
        for seed in range(4):
            batch = to_mesh(batch_of(seed), batch_sharding(run.mesh))
            after, metrics = programs.step(after, batch)
    return run, before, after, metrics, programs, batch


def test_frozen_means_frozen(trained):
    """After four steps the frozen towers are bit-identical and every trained parameter has moved; there is no optimizer
    state and no average for what is frozen."""
    run, before, after, *_ = trained
    moved, kept = freeze.split(after.parameters, run.stage.trains)
    start_moved, start_kept = freeze.split(before.parameters, run.stage.trains)
    assert digest(kept) == digest(start_kept)
    start = named_leaves(start_moved)
    assert [name for name, leaf in named_leaves(moved).items() if np.array_equal(leaf, start[name])] == []
    assert {freeze.tower_of(name) for name in named_leaves(after.average)} == run.stage.trains
    tracked = {name.split("/mu/")[1] for name in named_leaves(after.optimizer_state) if "/mu/" in name}
    assert {freeze.tower_of(name) for name in tracked} == run.stage.trains


def test_a_state_takes_over_the_parameters_that_it_is_made_from(tmp_path):
    """The program that makes the state lets it lie where they lay: a device that has room for a step has room for its
    beginning."""
    run = toy_run(tmp_path)
    with jax.set_mesh(run.mesh):
        programs = make_programs(run, toy_parameters())
        memory = programs.create.lower(programs.state.parameters).compile().memory_analysis()
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(toy_parameters()))
    assert memory.alias_size_in_bytes >= held > 0


def test_a_config_freezes_as_the_stage_does(tmp_path):
    """Three steps of a stage that trains two towers, one of which its config freezes, leave the very state (parameters,
    moments, average) of a stage that trains only the other one."""
    both = dataclasses.replace(TOY, trains=frozenset({"linear", "frozen"}))
    states = []
    for stage, towers in ((TOY, ()), (both, ("frozen",)), (both, ())):
        run = toy_run(tmp_path, stage=stage, freeze=towers)
        with jax.set_mesh(run.mesh):
            programs = make_programs(run, toy_parameters())
            state = programs.create(toy_parameters())
            for batch in toy_data(3).train(0):
                state, _ = programs.step(state, to_mesh(batch, batch_sharding(run.mesh)))
        states.append(state)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert digest(states[0]) == digest(states[1]) != digest(states[2])


def test_counters_metrics_and_average(trained):
    """Steps and events are counted, the metrics are finite, and the average lies between start and present."""
    run, before, after, metrics, *_ = trained
    assert int(after.step) == 4 and int(after.skipped) == 0
    # Two events in the even row, one in the odd one; or two moments.
    assert int(after.events) == 4 * {"world_action": 3, "reasoner": 2}[family_of(run.stage).name]
    assert {"loss", "grad_norm", "learning_rate", "tokens"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values())
    average = named_leaves(averaged_parameters(after, run.stage))
    start, now = named_leaves(before.parameters), named_leaves(after.parameters)
    name = next(name for name in average if not np.array_equal(start[name], now[name]))
    gap = np.abs(np.asarray(average[name] - now[name])).max()
    assert 0 < gap < np.abs(np.asarray(start[name] - now[name])).max()


def test_a_gradient_that_is_not_finite_changes_nothing(trained):
    """With a NaN among the parameters the step leaves parameters, average and moments as they are, and counts it."""
    run, before, _, _, programs, batch = trained
    tower = {"video": "text_encoder", "action": "duration"}.get(run.stage.name, min(run.stage.trains))
    state = jax.tree.map(jnp.copy, before)
    state.parameters[tower] = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), state.parameters[tower])
    digests = {part: digest(getattr(state, part)) for part in ("parameters", "average", "optimizer_state")}
    with jax.set_mesh(run.mesh):
        after, metrics = programs.step(state, batch)
    assert not np.isfinite(metrics["grad_norm"])
    assert (int(after.step), int(after.skipped)) == (1, 1)
    assert {part: digest(getattr(after, part)) for part in digests} == digests


def broken_update(learning_rate):
    """Stochastic gradient descent whose second update is infinite, though every gradient is finite."""

    def update(updates, state, params=None):
        scale = jnp.where(state == 1, jnp.inf, -learning_rate(state))
        return jax.tree.map(lambda leaf: scale * (1 + jnp.abs(leaf)), updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros([], jnp.int32), update)


def test_an_update_that_is_not_finite_changes_nothing(tmp_path):
    """Of finite loss and gradients: the step leaves parameters, average and the optimizer's state as they are, and
    counts it; the metrics say why, and what watches for skipped steps notices."""
    run = toy_run(tmp_path, optimizer=f"{__name__}:broken_update")
    watch, states = SkipWatch(1), []
    with jax.set_mesh(run.mesh):
        programs = make_programs(run, toy_parameters())
        state = programs.create(toy_parameters())
        for batch in itertools.islice(toy_data().train(0), 2):
            state, metrics = programs.step(state, to_mesh(batch, batch_sharding(run.mesh)))
            states.append(jax.tree.map(np.asarray, state))
            noticed = watch.add(metrics)
    good, bad = states
    assert (int(good.skipped), int(bad.skipped), int(bad.step)) == (0, 1, 2) and noticed
    for part in ("parameters", "average", "optimizer_state"):
        assert digest(getattr(good, part)) == digest(getattr(bad, part))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    assert not np.isfinite(metrics["update_norm"])


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [("muon", {"learning_rate": 0.2, "learning_rate/adamw": 0.1}), ("adamw", {"learning_rate": 0.1})],
)
def test_the_line_has_the_rate_of_every_group(tmp_path, optimizer, rates):
    """As the optimizer that runs has them, in the metrics of a finished run."""
    chosen = {"learning_rate": 0.2, "adamw_learning_rate": 0.1, "schedule": "constant", "steps": 2, "log_every": 2}
    run = toy_run(tmp_path, optimizer=optimizer, **chosen)
    fit(run, toy_start(), toy_data(), Silent())
    line = read_metrics(tmp_path / "metrics.jsonl")[-1]
    found = {name: value for name, value in line.items() if name.startswith("learning_rate")}
    assert found == pytest.approx(rates)


def averaged(learning_rate):
    """Moments inside a state of nested wrappers."""
    labels = {"w": "slow", "b": "fast"}
    groups = {"slow": optax.adamw(learning_rate), "fast": optax.lion(learning_rate)}
    return optax.MultiSteps(optax.partition(groups, labels), 2).gradient_transformation()


@pytest.mark.parametrize("name", ["optax:lion", "optax:adamw", "optax:adafactor", f"{__name__}:averaged"])
def test_a_foreign_optimizers_state_lies_like_the_parameters(name):
    """On a mesh that cuts them, everything in it that has a parameter's shape; what has none is on every device."""
    declarations = {"w": declare("embed -> mlp"), "b": declare("mlp")}
    shapes = {"w": jax.ShapeDtypeStruct((256, 512), jnp.float32), "b": jax.ShapeDtypeStruct((512,), jnp.float32)}
    mesh = abstract_mesh("eight_devices", 8)
    expected = parameter_shardings(shapes, declarations, mesh)
    assert not any(one.is_fully_replicated for one in expected.values())
    optimizer = build_optimizer(OptimizerSettings(steps=10, warmup_steps=1, optimizer=name), declarations)
    state, place = jax.eval_shape(optimizer.init, shapes), placement_by(shapes, declarations, mesh)
    mirrored = 0
    for path, leaf in named_leaves(state).items():
        key = path.split("/")[-1]
        like = key in shapes and shapes[key].shape == leaf.shape
        assert place(path, leaf.shape) == (expected[key] if like else replicated(mesh)), path
        mirrored += like
    assert mirrored >= 1
