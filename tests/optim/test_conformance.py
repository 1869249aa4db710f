"""What every optimizer that a config can name keeps to, one of one's own among them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wallwm_jax.core.axes import declare
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import abstract_mesh
from wallwm_jax.optim.builder import OPTIMIZERS, OptimizerSettings, assignment_table, build_optimizer, learning_rates

DECLARATIONS = {
    "stacked": declare("layers | embed -> mlp"),
    "heads": declare("embed -> heads head_dim"),
    "head": declare("embed -> output @adamw"),
    "table": declare("[vocabulary] embed"),
    "bias": declare("embed"),
}
SHAPES = {"stacked": (2, 4, 6), "heads": (4, 2, 3), "head": (4, 3), "table": (5, 4), "bias": (4,)}
NAMES = [*sorted(OPTIMIZERS), "optax:lion", "optax:adafactor", f"{__name__}:momentum"]


def momentum(learning_rate, decay=0.9):
    """A chain of one's own."""
    return optax.chain(optax.trace(decay), optax.scale_by_learning_rate(learning_rate))


def no_optimizer(learning_rate):
    return []


def tree(seed):
    generator = np.random.default_rng(seed)
    return {name: jnp.asarray(generator.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def settings(name, weight_decay=0.0):
    rates = {"learning_rate": 0.2, "adamw_learning_rate": 0.2}
    return OptimizerSettings(steps=60, warmup_steps=0, optimizer=name, weight_decay=weight_decay, **rates)


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_downhill(name):
    """Sixty steps take a quadratic bowl to a tenth of its loss; the state keeps its structure, shapes and types."""
    target, parameters = tree(0), tree(1)
    transformation = build_optimizer(settings(name), DECLARATIONS)

    def loss(given):
        return sum(jnp.sum(jnp.square(given[key] - target[key])) for key in target)

    @jax.jit
    def step(parameters, state):
        updates, state = transformation.update(jax.grad(loss)(parameters), state, parameters)
        return optax.apply_updates(parameters, updates), state

    state, first = transformation.init(parameters), float(loss(parameters))
    described = jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), state)
    for _ in range(60):
        parameters, state = step(parameters, state)
    assert float(loss(parameters)) < 0.1 * first
    assert jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), state) == described
    assert all(parameters[key].dtype == jnp.float32 for key in parameters)


@pytest.mark.parametrize("name", NAMES)
def test_it_composes(name):
    """Two half batches accumulated by optax.MultiSteps move the parameters as their mean does."""
    parameters, halves = tree(1), [tree(2), tree(3)]
    transformation = build_optimizer(settings(name), DECLARATIONS)
    whole, _ = transformation.update(
        jax.tree.map(lambda a, b: (a + b) / 2, *halves), transformation.init(parameters), parameters
    )
    gathered = optax.MultiSteps(transformation, 2)
    state = gathered.init(parameters)
    first, state = gathered.update(halves[0], state, parameters)
    second, _ = gathered.update(halves[1], state, parameters)
    for key in SHAPES:
        np.testing.assert_array_equal(first[key], 0)
        np.testing.assert_allclose(second[key], whole[key], atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_decay_reaches_what_declares_it(name):
    """Without gradients, declared matrices shrink and nothing else moves; the table names where each of them went."""
    parameters = tree(1)
    transformation = build_optimizer(settings(name, weight_decay=0.5), DECLARATIONS)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    updates, _ = transformation.update(zeros, transformation.init(parameters), parameters)
    for row in assignment_table(parameters, DECLARATIONS, name):
        key = row["name"]
        expected = -0.2 * 0.5 * parameters[key] if row["decay"] else jnp.zeros(SHAPES[key])
        np.testing.assert_allclose(updates[key], expected, atol=1e-6, err_msg=key)
        matrix = key in ("stacked", "heads") and name.endswith("muon")
        assert row["optimizer"] == (name if matrix or not name.endswith("muon") else "adamw")


def test_both_muons_agree():
    """Named in a config, with the same settings, the two take the same step (1e-5)."""
    parameters, gradients, found = tree(1), tree(2), []
    for name in ("muon", "optax_muon"):
        transformation = build_optimizer(settings(name, weight_decay=0.1), DECLARATIONS)
        found.append(transformation.update(gradients, transformation.init(parameters), parameters)[0])
    for key in SHAPES:
        np.testing.assert_allclose(found[0][key], found[1][key], atol=1e-5, err_msg=key)


def test_what_cannot_be_found_is_refused():
    """Unknown names, modules and functions, and functions that make no optimizer, at start-up."""
    for name in ("sgd", "nowhere:make", f"{__name__}:nothing"):
        with pytest.raises(InputError, match="adamw"):
            settings(name)
    with pytest.raises(InputError, match="found list, expected an optax"):
        build_optimizer(settings(f"{__name__}:no_optimizer"), DECLARATIONS)


def asks(learning_rate, declarations, mesh, settings, decay):
    """A chain that wants what only the run knows."""
    matrices = jax.tree.map(lambda rule: rule.is_matrix, declarations)
    assert mesh.size == 1 and settings.steps == 60
    return optax.chain(optax.add_decayed_weights(decay, matrices), optax.scale_by_learning_rate(learning_rate))


def raises(learning_rate):
    raise RuntimeError("no chain today")


def late(settings, declarations, mesh):
    """Takes no learning rate."""


def test_a_function_gets_its_options_and_what_it_asks_for():
    """Options by name, the schedule as its rate, and declarations, mesh and settings by the names of its parameters."""
    rates = {"steps": 60, "warmup_steps": 0, "schedule": "constant", "learning_rate": 0.2}
    chosen = OptimizerSettings(optimizer=f"{__name__}:asks", optimizer_options={"decay": 0.5}, **rates)
    transformation = build_optimizer(chosen, DECLARATIONS, abstract_mesh("laptop", 1))
    parameters = tree(1)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    updates, _ = transformation.update(zeros, transformation.init(parameters), parameters)
    for key, rule in DECLARATIONS.items():
        np.testing.assert_allclose(updates[key], -0.1 * parameters[key] * rule.is_matrix, atol=1e-6, err_msg=key)
    lion = dataclasses.replace(settings("optax:lion"), optimizer_options={"b1": 0.5, "weight_decay": 0.1})
    made = build_optimizer(lion, DECLARATIONS)
    expected = optax.lion(lion.schedule_of(0.2), b1=0.5, weight_decay=0.1)
    found, _ = made.update(tree(2), made.init(parameters), parameters)
    theirs, _ = expected.update(tree(2), expected.init(parameters), parameters)
    for key in SHAPES:
        np.testing.assert_allclose(found[key], theirs[key], rtol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("optax:lion", {"b3": 0.9}, r"optimizer_options\.b3: found no argument"),
        ("optax:lion", {"learning_rate": 0.1}, r"optimizer_options\.learning_rate: found 0\.1"),
        ("optax:chain", {}, "the first one"),
        (f"{__name__}:late", {}, "the first one"),
        (f"{__name__}:asks", {}, r"no value for its arguments \['decay'\]"),
        (f"{__name__}:SHAPES", {}, "a dict"),
        ("muon", {"b1": 0.9}, "keys of their own"),
    ],
)
def test_a_signature_that_does_not_fit_is_one_line(name, options, message):
    """When the settings are made, before anything is read."""
    with pytest.raises(InputError, match=message) as raised:
        OptimizerSettings(steps=60, optimizer=name, optimizer_options=options)
    assert "\n" not in str(raised.value)


def test_what_a_function_raises_is_one_line():
    with pytest.raises(InputError, match="RuntimeError: no chain today") as raised:
        build_optimizer(settings(f"{__name__}:raises"), DECLARATIONS)
    assert "\n" not in str(raised.value)


def test_the_log_has_the_rate_of_the_optimizer_that_runs():
    """Of Muon one for the matrices and AdamW's for the rest; of AdamW its own alone; of a function the one that it is
    given. Schedule-free AdamW warms up from zero and stays."""
    chosen = {"steps": 10, "warmup_steps": 2, "learning_rate": 0.4, "adamw_learning_rate": 0.2, "schedule": "constant"}
    expected = {
        "muon": {"learning_rate": 0.4, "learning_rate/adamw": 0.2},
        "optax_muon": {"learning_rate": 0.4, "learning_rate/adamw": 0.2},
        "adamw": {"learning_rate": 0.2},
        "schedule_free": {"learning_rate": 0.2},
        "lion": {"learning_rate": 0.4},
        "optax:lion": {"learning_rate": 0.4},
    }
    for name, rates in expected.items():
        found = learning_rates(OptimizerSettings(optimizer=name, **chosen))
        assert {group: pytest.approx(float(rate(5))) for group, rate in found.items()} == rates, name
    warming = learning_rates(OptimizerSettings(optimizer="schedule_free", **chosen))["learning_rate"]
    assert float(warming(1)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_guard_keeps_what_is_no_number_out(name, value):
    """Behind optax.apply_if_finite a gradient that is no number moves nothing and leaves no trace: the next step is
    that of an optimizer which never saw it."""
    guarded = optax.apply_if_finite(build_optimizer(settings(name), DECLARATIONS), 3)
    parameters, bad = tree(1), tree(2)
    bad["heads"] = bad["heads"].at[0, 0, 0].set(value)
    state = guarded.init(parameters)
    nothing, after = guarded.update(bad, state, parameters)
    for key in SHAPES:
        np.testing.assert_array_equal(nothing[key], 0)
    expected, _ = guarded.update(tree(3), state, parameters)
    found, _ = guarded.update(tree(3), after, parameters)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_huge_gradients_move_as_others_do(name):
    """Gradients of 1e20 give the updates of the same gradients at 1e2 (1e-5 of them): the clipping's norm does not
    overflow."""
    parameters, transformation = tree(1), build_optimizer(settings(name), DECLARATIONS)

    def update(scale):
        gradients = jax.tree.map(lambda leaf: leaf * scale, tree(2))
        return transformation.update(gradients, transformation.init(parameters), parameters)[0]

    found, expected = update(1e20), update(1e2)
    for key in SHAPES:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-6, err_msg=key)
        assert np.abs(expected[key]).max() > 1e-4
