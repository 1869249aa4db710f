"""The partitioned optimizer, its table, schedules, freezing and averaging."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.core.axes import declare
from wallwm_jax.core.errors import InputError
from wallwm_jax.optim import ema, freeze
from wallwm_jax.optim.builder import OptimizerSettings, assignment_table, build_optimizer
from wallwm_jax.optim.schedules import warmup_then

DECLARATIONS = {
    "matrix": declare("layers | embed -> mlp"),
    "head": declare("embed -> output @adamw"),
    "table": declare("[vocabulary] embed"),
    "bias": declare("embed"),
}
PARAMETERS = {
    "matrix": jnp.ones((2, 4, 6)),
    "head": jnp.ones((4, 3)),
    "table": jnp.ones((5, 4)),
    "bias": jnp.ones(4),
}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_decay_and_state_follow_the_declarations(optimizer):
    """With zero gradients only declared matrices shrink, by rate x decay; Muon holds state for Muon's leaves only."""
    chosen = OptimizerSettings(
        steps=10, warmup_steps=0, learning_rate=0.1, adamw_learning_rate=0.2, schedule="constant", weight_decay=0.5,
        optimizer=optimizer,
    )  # fmt: skip
    transformation = build_optimizer(chosen, DECLARATIONS)
    state = transformation.init(PARAMETERS)
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, PARAMETERS), state, PARAMETERS)
    after = optax.apply_updates(PARAMETERS, updates)
    rate = 0.1 if optimizer == "muon" else 0.2
    np.testing.assert_allclose(after["matrix"], 1 - rate * 0.5, rtol=1e-6)
    np.testing.assert_allclose(after["head"], 1 - 0.2 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(after["table"], PARAMETERS["table"])
    np.testing.assert_array_equal(after["bias"], PARAMETERS["bias"])
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    moments = 1 if optimizer == "muon" else 2
    assert sizes == sorted([48] * moments + [12, 20, 4] * 2)


def test_table_names_the_rule_of_every_parameter():
    """The printed assignment agrees with the declarations; an undeclared parameter is refused by name."""
    rows = {row["name"]: (row["optimizer"], row["decay"]) for row in assignment_table(PARAMETERS, DECLARATIONS)}
    assert rows == {
        "matrix": ("muon", True), "head": ("adamw", True), "table": ("adamw", False), "bias": ("adamw", False),
    }  # fmt: skip
    with pytest.raises(InputError, match="parameter stray"):
        assignment_table({"stray": jnp.ones(3)}, DECLARATIONS)


def test_clip_bounds_what_reaches_adam():
    """A gradient 1e3 times larger moves the parameters no further once both are clipped."""
    chosen = OptimizerSettings(steps=10, warmup_steps=0, clip=1.0)
    transformation = build_optimizer(chosen, DECLARATIONS)
    state = transformation.init(PARAMETERS)
    gradient = jax.tree.map(jnp.ones_like, PARAMETERS)
    small, _ = transformation.update(gradient, state, PARAMETERS)
    large, _ = transformation.update(jax.tree.map(lambda g: 1e3 * g, gradient), state, PARAMETERS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), small, large)


@pytest.mark.parametrize("shape, middle", [("cosine", 0.5 * 0.9 + 0.1), ("linear", 0.55), ("constant", 1.0)])
def test_schedule_values(shape, middle):
    """Warm-up from peak / warmup, the peak at its end, the middle and the floor."""
    rate = warmup_then(shape, 2.0, 10, 110, final_fraction=0.1)
    np.testing.assert_allclose(rate(0), 0.2, rtol=1e-6)
    np.testing.assert_allclose(rate(9), 2.0, rtol=1e-6)
    np.testing.assert_allclose(rate(60), 2.0 * middle, rtol=1e-5)
    np.testing.assert_allclose(rate(110), 2.0 if shape == "constant" else 0.2, rtol=1e-5)


def test_bad_settings_are_named():
    """Unknown optimizer, unknown schedule, warm-up longer than the run, clip of zero."""
    for arguments, word in [({"optimizer": "sgd"}, "sgd"), ({"clip": 0.0}, "clip")]:
        with pytest.raises(InputError, match=word):
            OptimizerSettings(steps=10, **arguments)
    with pytest.raises(InputError, match="warmup_steps"):
        warmup_then("cosine", 1.0, 10, 10)
    with pytest.raises(InputError, match="triangle"):
        warmup_then("triangle", 1.0, 1, 10)


TOWERS = ("text_encoder", "video", "action", "duration")


@given(chosen=st.sets(st.sampled_from(TOWERS)))
@settings(max_examples=16)
def test_split_then_merge_is_the_identity(chosen):
    """Every parameter lands in exactly one part, by its tower, and merging restores the tree."""
    blocks = {"video": {"w": 3}, "action": {"w": 4}}
    tree = {"action": {"a": 0}, "blocks": blocks, "duration": {"d": 1}, "text_encoder": {"t": 2}, "video": {"v": 5}}
    trained, frozen = freeze.split(tree, chosen)
    assert freeze.merge(trained, frozen) == tree
    assert list(freeze.merge(frozen, trained)) == sorted(tree)
    assert ("video" in trained.get("blocks", {})) == ("video" in chosen) == ("video" in trained)


def test_unknown_tower_is_refused():
    """A stage that trains a tower which the model lacks says so instead of training nothing."""
    with pytest.raises(InputError, match="planner"):
        freeze.split({"video": {}}, {"planner"})
    assert freeze.tower_of("blocks/action/query") == "action"
    assert freeze.tower_of("video/head") == "video"


def test_average_follows_the_recurrence():
    """a <- d a + (1 - d) p with the short early memory of (1 + step) / (10 + step)."""
    np.testing.assert_allclose(ema.decay_at(0, 0.999), 0.1, rtol=1e-6)
    np.testing.assert_allclose(ema.decay_at(10**6, 0.999), 0.999, rtol=1e-6)
    found = ema.update({"w": jnp.full(3, 2.0)}, {"w": jnp.full(3, 4.0)}, 0.75)
    np.testing.assert_allclose(found["w"], 2.5, rtol=1e-6)
