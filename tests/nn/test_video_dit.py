"""The video transformer alone, on plain arrays: its example, its masks, any picture and number of views, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.video_dit import VideoDiT, VideoDiTSizes

SIZES = VideoDiTSizes(layers=2, embed=16, heads=2, mlp=32, channels=3, text_embed=8, views=3, frequency=16)


def given(seed, *, cells=(4, 6), views=3, frames=3, rows=2):
    """(noisy, time, text) and the named arguments, of one event a row."""
    generator = np.random.default_rng(seed)
    video = (rows, frames, views, *cells, SIZES.channels)
    noisy, time = generator.normal(size=video).astype("f"), generator.uniform(0.2, 1, (rows, 1)).astype("f")
    named = {
        "text_mask": np.arange(5) < np.full((rows, 1, 1), 4),
        "view_mask": np.ones((rows, frames, views), bool),
        "observed": generator.normal(size=video).astype("f"),
        "observed_mask": np.broadcast_to(np.arange(frames) == 0, (rows, frames)).copy(),
    }
    return (noisy, time, generator.normal(size=(rows, 1, 5, 8)).astype("f")), named


@pytest.fixture(scope="module")
def trained():
    """(network, parameters off their initial zeros, compiled apply)."""
    dit = VideoDiT(sizes=SIZES)
    inputs, named = jax.tree.map(jnp.asarray, given(0))
    params = nn.meta.unbox(jax.jit(dit.init)(jax.random.key(0), *inputs, **named))["params"]
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.2 * generator.normal(size=leaf.shape).astype("f"), params)
    return dit, params, jax.jit(lambda inputs, named: dit.apply({"params": params}, *inputs, **named))


def test_the_example_of_the_docstring():
    """Ten lines: sizes, arrays, parameters, a forward pass."""
    sizes = VideoDiTSizes(layers=2, embed=32, heads=2, mlp=64, channels=8, text_embed=16, views=3)
    dit, key = VideoDiT(sizes=sizes), jax.random.key(0)
    noisy, time, text = jax.random.normal(key, (1, 5, 3, 8, 6, 8)), jnp.full((1, 1), 0.5), jnp.ones((1, 1, 7, 16))
    given = {"text_mask": jnp.ones((1, 1, 7), bool), "view_mask": jnp.ones((1, 5, 3), bool)}
    given |= {"observed": jnp.zeros_like(noisy), "observed_mask": jnp.arange(5)[None] == 0}
    variables = nn.meta.unbox(jax.jit(dit.init)(key, noisy, time, text, **given))
    velocity, features = jax.jit(dit.apply)(variables, noisy, time, text, **given)
    assert velocity.shape == noisy.shape and features.shape == (2, 1, 5, 3, 4 * 3, 32)


def test_what_a_mask_excludes_has_no_influence(trained):
    """Garbage in a padded slot, an absent view, unread text, and the noise of a given slot: the same bits."""
    _, _, run = trained
    (noisy, time, text), named = given(2)
    real = named["view_mask"]
    real[0, -1], real[1, :, 2] = False, False
    generator = np.random.default_rng(3)
    before = run((noisy, time, text), named)
    cells, shown = real[..., None, None, None], named["observed_mask"][..., None, None, None, None]
    spoilt = np.where(cells & ~shown, noisy, 50 * generator.normal(size=noisy.shape).astype("f"))
    observed = np.where(cells & shown, named["observed"], 50 * generator.normal(size=noisy.shape).astype("f"))
    unread = np.where(named["text_mask"][..., None], text, 99.0).astype("f")
    after = run((spoilt, time, unread), named | {"observed": observed})
    np.testing.assert_array_equal(np.where(cells, before.prediction, 0), np.where(cells, after.prediction, 0))
    other = run((np.where(cells & ~shown, noisy + 1, noisy), time, text), named)
    assert np.abs(np.where(cells, other.prediction - before.prediction, 0)).max() > 1e-3


def test_packed_events_are_what_they_are_apart(trained):
    """Two events in one row, with their own times and captions, equal two rows of one (1e-5: other sums)."""
    _, _, run = trained
    (noisy, time, text), named = given(4)
    apart = run((noisy, time, text), named).prediction
    join = {name: part.reshape(1, -1, *part.shape[2:]) for name, part in named.items()}
    join["segment_ids"] = np.repeat([[1, 2]], 3, 1).astype("i4")
    join["frame_positions"] = np.tile(np.arange(3), 2)[None].astype("i4")
    packed = tuple(part.reshape(1, -1, *part.shape[2:]) for part in (noisy, time, text))
    together = run(packed, join).prediction
    np.testing.assert_allclose(together[0], apart.reshape(together[0].shape), rtol=1e-5, atol=1e-5)


def test_fewer_views_are_the_first_of_the_table(trained):
    """A batch with two of three views equals one whose third view is masked (1e-5: other sums)."""
    _, _, run = trained
    (noisy, time, text), named = given(5)
    named["view_mask"][:, :, 2] = False
    masked = run((noisy, time, text), named).prediction[:, :, :2]
    two = {name: part[:, :, :2] if name in ("view_mask", "observed") else part for name, part in named.items()}
    np.testing.assert_allclose(run((noisy[:, :, :2], time, text), two).prediction, masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": (5, 4)}, "latent cells: found 5 x 4, expected multiples of the patch"),
        ({"views": 4}, "views of the latents: found 4, expected at most 3"),
    ],
)
def test_what_does_not_fit_is_refused(trained, changes, message):
    """Cells that the patch does not divide, and more views than the table has."""
    dit, params, _ = trained
    inputs, named = jax.tree.map(jnp.asarray, given(0, **changes))
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: dit.apply({"params": params}, *inputs, **named))


def test_rows_of_several_events_need_segment_ids(trained):
    """Nothing is guessed where a row has two captions."""
    dit, params, _ = trained
    (noisy, time, text), named = jax.tree.map(jnp.asarray, given(0))
    named["text_mask"], inputs = (
        jnp.repeat(named["text_mask"], 2, 1),
        (noisy, jnp.tile(time, 2), jnp.repeat(text, 2, 1)),
    )
    with pytest.raises(InputError, match="segment_ids: found None"):
        jax.eval_shape(lambda: dit.apply({"params": params}, *inputs, **named))
