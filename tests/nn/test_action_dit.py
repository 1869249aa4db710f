"""The action transformer alone, on cached features: its example, its masks, packing, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.action_dit import ActionDiT, ActionDiTSizes, ActionGuides

SIZES = ActionDiTSizes(
    layers=2, embed=16, heads=2, mlp=24, video_embed=12, dof=5, max_latent_frames=4, frequency=16
)  # fmt: skip


def given(seed, *, frames=3, rows=2, steps=6, layers=2):
    """(noisy, time, features) and the named arguments, of one event a row."""
    generator = np.random.default_rng(seed)
    noisy, time = generator.normal(size=(rows, 2, steps, 5)), generator.uniform(0.2, 1, (rows, 2, 1))
    features = generator.normal(size=(layers, rows, frames, 2, 3, 12))
    named = {
        "state": generator.normal(size=(rows, 1, 5)).astype("f"),
        "dof_mask": np.broadcast_to(np.arange(5) < 4, (rows, 1, 5)).copy(),
        "action_mask": np.ones((rows, steps), bool),
        "view_mask": np.ones((rows, frames, 2), bool),
        "action_frames": np.broadcast_to(1 + np.arange(steps) // 3, (rows, steps)).astype("i4"),
    }
    return tuple(part.astype("f") for part in (noisy, time, features)), named


@pytest.fixture(scope="module")
def trained():
    """(network, parameters off their initial zeros, compiled apply)."""
    dit = ActionDiT(sizes=SIZES)
    inputs, named = jax.tree.map(jnp.asarray, given(0))
    params = nn.meta.unbox(jax.jit(dit.init)(jax.random.key(0), *inputs, **named))["params"]
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.2 * generator.normal(size=leaf.shape).astype("f"), params)
    return dit, params, jax.jit(lambda inputs, named: dit.apply({"params": params}, *inputs, **named))


def test_the_example_of_the_docstring():
    """Ten lines: sizes, arrays, parameters, a forward pass."""
    dit = ActionDiT(sizes=ActionDiTSizes(layers=2, embed=24, heads=2, mlp=48, video_embed=32, dof=7))
    key, features = jax.random.key(0), jnp.ones((2, 1, 3, 2, 12, 32))
    noisy, time = jax.random.normal(key, (1, 6, 16, 7)), jnp.full((1, 6, 1), 0.5)
    given = {"state": jnp.zeros((1, 1, 7)), "dof_mask": jnp.ones((1, 1, 7), bool)}
    given |= {"action_mask": jnp.ones((1, 16), bool), "view_mask": jnp.ones((1, 3, 2), bool)}
    given["action_frames"] = 1 + jnp.arange(16)[None] // 8
    variables = nn.meta.unbox(jax.jit(dit.init)(key, noisy, time, features, **given))
    velocity = jax.jit(dit.apply)(variables, noisy, time, features, **given)
    assert velocity.shape == noisy.shape


def test_what_a_mask_excludes_has_no_influence(trained):
    """Garbage in padded steps, degrees of freedom, absent frames and views: the same bits, and zeros where masked."""
    _, _, run = trained
    (noisy, time, features), named = given(2)
    named["action_mask"][0, 4:], named["view_mask"][0, 2], named["view_mask"][1, :, 1] = False, False, False
    generator = np.random.default_rng(3)
    real = named["action_mask"][:, None, :, None] & named["dof_mask"][:, :, None]
    before = np.asarray(run((noisy, time, features), named))
    state = np.where(named["dof_mask"], named["state"], 99.0).astype("f")
    spoilt = np.where(real, noisy, 50 * generator.normal(size=noisy.shape).astype("f"))
    unread = np.where(named["view_mask"][None, ..., None, None], features, 50.0).astype("f")
    np.testing.assert_array_equal(np.asarray(run((spoilt, time, unread), named | {"state": state})), before)
    assert not before[~np.broadcast_to(real, before.shape)].any()
    assert np.abs(np.asarray(run((noisy, time, features + 1 * (np.arange(12) > 5)), named)) - before).max() > 1e-3


def test_packed_events_are_what_they_are_apart(trained):
    """Two events in one row equal two rows of one (1e-5: other sums)."""
    _, _, run = trained
    (noisy, time, features), named = given(4)
    apart = np.asarray(run((noisy, time, features), named))
    join = {name: part.reshape(1, -1, *part.shape[2:]) for name, part in named.items()}
    for name, many in (("action_segment_ids", 6), ("segment_ids", 3)):
        join[name] = np.repeat([[1, 2]], many, 1).astype("i4")
    for name, many in (("action_positions", 6), ("video_frames", 3)):
        join[name] = np.tile(np.arange(many), 2)[None].astype("i4")
    packed = (
        np.concatenate(list(noisy), 1)[None],
        np.concatenate(list(time), 1)[None],
        features.reshape(2, 1, 6, 2, 3, 12),
    )
    together = np.asarray(run(packed, join))[0]
    np.testing.assert_allclose(np.split(together, 2, 1), apart, rtol=1e-5, atol=1e-5)


def test_guides_are_added(trained):
    """Zeros add nothing, and anything else in any of the four places does."""
    dit, params, run = trained
    inputs, named = jax.tree.map(jnp.asarray, given(5))
    plain = np.asarray(run(inputs, named))
    zeros = ActionGuides(
        np.zeros((2, 1, 16), "f"), np.zeros((2, 6, 16), "f"), np.zeros((2, 3, 12), "f"), np.zeros((2, 3, 12), "f")
    )
    guided = jax.jit(lambda guides: dit.apply({"params": params}, *inputs, **named, guides=guides))
    np.testing.assert_allclose(guided(zeros), plain, rtol=1e-5, atol=1e-6)
    generator = np.random.default_rng(6)
    for name, part in zeros._asdict().items():
        other = zeros._replace(**{name: generator.normal(size=part.shape).astype("f")})
        assert np.abs(np.asarray(guided(other)) - plain).max() > 1e-3, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 6}, "latent frames: found 6, expected at most 5, the rows of E_tau"),
        ({"layers": 3}, "layers of the features: found 3, expected 2"),
    ],
)
def test_what_does_not_fit_is_refused(trained, changes, message):
    """A latent frame beyond the table of E_tau, and features of another depth."""
    dit, params, _ = trained
    inputs, named = jax.tree.map(jnp.asarray, given(0, **changes))
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: dit.apply({"params": params}, *inputs, **named))
