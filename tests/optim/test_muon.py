"""Muon: equal to Optax when configured alike, orthogonal updates, grouping and robustness."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from wallwm_jax.core.axes import declare
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.flops import inner_jaxprs
from wallwm_jax.optim import MuonSettings, muon
from wallwm_jax.optim.muon import scale_by_muon
from wallwm_jax.optim.newton_schulz import orthogonalize
from wallwm_jax.optim.polynomials import polynomials_of

DECLARATIONS = {
    "square": declare("embed -> embed"),
    "tall": declare("mlp -> embed"),
    "wide": declare("embed -> mlp"),
    "heads": declare("embed -> heads head_dim"),
    "merge": declare("heads head_dim -> embed"),
    "stacked": declare("layers | embed -> mlp"),
    "stacked_heads": declare("layers | embed -> heads head_dim"),
}
SHAPES = {
    "square": (8, 8),
    "tall": (20, 8),
    "wide": (8, 20),
    "heads": (8, 2, 4),
    "merge": (2, 4, 8),
    "stacked": (3, 8, 20),
    "stacked_heads": (3, 8, 2, 4),
}
NUMBERS = {
    "square": MuonDimensionNumbers(0, 1),
    "tall": MuonDimensionNumbers(0, 1),
    "wide": MuonDimensionNumbers(0, 1),
    "heads": MuonDimensionNumbers(0, (1, 2)),
    "merge": MuonDimensionNumbers((0, 1), 2),
    "stacked": MuonDimensionNumbers(1, 2),
    "stacked_heads": MuonDimensionNumbers(1, (2, 3)),
}


def _random_tree(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * generator.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def _three_steps(optimizer, parameters):
    state, step = optimizer.init(parameters), jax.jit(optimizer.update)
    for seed in range(3):
        updates, state = step(_random_tree(seed + 1), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return parameters


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["width", "rms"])
def test_equals_optax_when_configured_alike(nesterov, scale):
    """Three steps on square, tall, wide, per-head and stacked matrices agree with optax.contrib.muon within 1e-5."""
    settings = MuonSettings(nesterov=nesterov, coefficients="keller_jordan", update_scale=scale)
    ours = muon(0.1, DECLARATIONS, settings, weight_decay=0.05)
    theirs = optax.contrib.muon(
        0.1,
        nesterov=nesterov,
        weight_decay=0.05,
        consistent_rms=0.2 if scale == "rms" else None,
        muon_weight_dimension_numbers=NUMBERS,
    )
    start = _random_tree(0)
    expected, found = _three_steps(theirs, start), _three_steps(ours, start)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, rtol=0, err_msg=name)
        assert np.abs(np.asarray(found[name] - start[name])).max() > 1e-2


@pytest.mark.parametrize("iteration", ["gram", "cheapest"])
def test_the_iteration_does_not_matter(iteration):
    """On Gram matrices, or by shape on the cheaper of the two, the updates are those of the direct iteration, up to
    what fp32 loses where a matrix is squared and never formed anew within five steps."""
    gradients = _random_tree(1)
    found = []
    for name in ("direct", iteration):
        transformation = scale_by_muon(DECLARATIONS, MuonSettings(iteration=name))
        found.append(transformation.update(gradients, transformation.init(gradients))[0])
    for name in SHAPES:
        np.testing.assert_allclose(found[1][name], found[0][name], atol=5e-4, err_msg=name)


def test_split_axes_give_every_head_its_own_matrix():
    """What each head gets is what it would get as a parameter of its own, whether heads are inputs, outputs or stacked;
    parameters without heads are left as they are."""
    gradients, whole = _random_tree(1), scale_by_muon(DECLARATIONS, MuonSettings())
    split = scale_by_muon(DECLARATIONS, MuonSettings(split=("heads",)))
    found, before = (step.update(gradients, step.init(gradients))[0] for step in (split, whole))
    heads = {
        "heads": (1, "embed -> head_dim"),
        "merge": (0, "head_dim -> embed"),
        "stacked_heads": (2, "layers | embed -> head_dim"),
    }
    for name in SHAPES:
        if name not in heads:
            np.testing.assert_allclose(found[name], before[name], atol=1e-5)
            continue
        axis, text = heads[name]
        alone = scale_by_muon({"w": declare(text)}, MuonSettings())
        for head in range(2):
            gradient = {"w": jnp.take(gradients[name], head, axis)}
            expected = alone.update(gradient, alone.init(gradient))[0]["w"]
            np.testing.assert_allclose(jnp.take(found[name], head, axis), expected, atol=1e-5, err_msg=name)
        assert np.abs(found[name] - before[name]).max() > 1e-2


def test_one_batch_per_shape():
    """Matrices of one shape, transposed or stacked, share one Newton-Schulz: 2 groups here, hence 2 norms."""
    transformation = scale_by_muon(DECLARATIONS, MuonSettings())
    parameters = _random_tree(0)
    text = str(jax.make_jaxpr(transformation.update)(parameters, transformation.init(parameters)))
    assert text.count(" sqrt ") == 2  # 8 x 8 (square, heads, merge, stacked_heads) and 8 x 20 (tall, wide, stacked)


def test_undeclared_and_unknown_are_refused():
    """A leaf without a matrix declaration and an axis that no rule has name themselves."""
    transformation = scale_by_muon({"bias": declare("embed")}, MuonSettings())
    leaf = {"bias": jnp.ones(4)}
    with pytest.raises(InputError, match="parameter bias"):
        transformation.update(leaf, transformation.init(leaf))
    with pytest.raises(InputError, match=r"muon\.split: found unknown axes \['head'\]"):
        scale_by_muon({"w": "in -> out"}, MuonSettings(split=("head",))).init({"w": jnp.ones((2, 3))})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coefficients", "quintic"), ("update_scale", "area"), ("iteration", "dual"), ("products", "float16"),
        ("norm", "nuclear"), ("steps", -1), ("steps", 0), ("steps", True), ("steps", 1000), ("momentum", 1.0),
        ("momentum", -0.1), ("momentum", float("nan")), ("epsilon", 0.0), ("consistent_rms", float("inf")),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(field, value):
    """Names that mean nothing and numbers out of range, when the settings are made, by one line that names the
    field."""
    with pytest.raises(InputError, match=field if field != "coefficients" else "quintic"):
        MuonSettings(**{field: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight_decay", -0.1), ("b1", 1.0), ("b2", float("nan")), ("epsilon", -1.0), ("learning_rate", -1e-3)],
)
def test_numbers_of_the_optimizer_are_checked(name, value):
    """As are those that `muon` takes itself."""
    with pytest.raises(InputError, match=name):
        muon(**{"learning_rate": 1e-3, name: value})


def test_a_tower_has_coefficients_of_its_own():
    """Matrices of the tower that is named get its polynomials, all others the rest's, shape by shape as each set alone
    gives them; a tower that is not there is refused."""
    rules = {tower: {"query": declare("embed -> mlp")} for tower in ("video", "action")}
    gradients = {tower: {"query": _random_tree(seed)["wide"]} for seed, tower in enumerate(rules)}

    def updates(settings):
        transformation = scale_by_muon(rules, settings)
        return transformation.update(gradients, transformation.init(gradients))[0]

    mixed = updates(MuonSettings(tower_coefficients={"action": "high_pass"}))
    plain, high = updates(MuonSettings()), updates(MuonSettings(coefficients="high_pass"))
    np.testing.assert_allclose(mixed["video"]["query"], plain["video"]["query"], atol=1e-6)
    np.testing.assert_allclose(mixed["action"]["query"], high["action"]["query"], atol=1e-6)
    assert np.abs(plain["action"]["query"] - high["action"]["query"]).max() > 1e-2
    with pytest.raises(InputError, match="tower_coefficients: found towers"):
        updates(MuonSettings(tower_coefficients={"text": "high_pass"}))


def test_the_set_the_norm_and_halves_reach_the_iteration():
    """The first update is what the iteration, told so, makes of the gradient; told otherwise it is another."""
    gradients = _random_tree(1)
    chosen = MuonSettings(coefficients="polar_close", norm="schatten", halves=True, update_scale="none")
    found = []
    for settings in (chosen, dataclasses.replace(chosen, norm="frobenius")):
        transformation = scale_by_muon(DECLARATIONS, settings)
        found.append(transformation.update(gradients, transformation.init(gradients))[0]["wide"])
    expected = orthogonalize(gradients["wide"], polynomials_of("polar_close", 5), norm="schatten", halves=True)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    assert np.abs(found[1] - expected).max() > 1e-2


@pytest.mark.parametrize("stacked", [False, True])
def test_matrices_are_taken_as_the_dtype_of_products_wants_them(stacked):
    """Six of 512 x 512, by leaf or in one stack: in fp32 one by one, without a batch axis; in bf16 all together."""
    rule = declare("embed -> mlp")
    rules = {"all": rule.stacked("layers")} if stacked else {str(layer): rule for layer in range(6)}
    shape = jax.ShapeDtypeStruct((6, 512, 512) if stacked else (512, 512), jnp.float32)
    gradients = dict.fromkeys(rules, shape)
    for products, expected in (("float32", (512, 512)), ("bfloat16", (6, 512, 512))):
        settings = MuonSettings(products=products, iteration="direct", halves=False)
        transformation = scale_by_muon(rules, settings)
        state = jax.eval_shape(transformation.init, gradients)
        assert product_shapes(jax.make_jaxpr(transformation.update)(gradients, state).jaxpr) == {expected}


def product_shapes(jaxpr):
    """Of the results of all products of a program, those inside its loops included; empty ones left out."""
    results = (one.outvars[0].aval for one in jaxpr.eqns if one.primitive.name == "dot_general")
    found = {result.shape for result in results if result.size}
    return found.union(*(product_shapes(inner) for one in jaxpr.eqns for inner in inner_jaxprs(one)))


@pytest.mark.parametrize("stacked", [False, True])
def test_its_temporaries_are_no_more_than_optax_takes(stacked):
    """Of 24 leaves of wide matrices, or of one that stacks them, as the step is compiled for this machine."""
    rule = declare("embed -> mlp")
    rules = {"all": rule.stacked("layers")} if stacked else {str(layer): rule for layer in range(24)}
    shape = jax.ShapeDtypeStruct((24, 256, 1024) if stacked else (256, 1024), jnp.float32)
    gradients, numbers = dict.fromkeys(rules, shape), MuonDimensionNumbers(int(stacked), int(stacked) + 1)
    bytes_of = []
    for optimizer in (
        muon(0.1, rules, MuonSettings(iteration="cheapest")),
        optax.contrib.muon(0.1, muon_weight_dimension_numbers=dict.fromkeys(rules, numbers)),
    ):
        state = jax.eval_shape(optimizer.init, gradients)
        step = jax.jit(optimizer.update, donate_argnums=1).lower(gradients, state, gradients).compile()
        bytes_of.append(step.memory_analysis().temp_size_in_bytes)
    assert 0 < bytes_of[0] <= bytes_of[1]
