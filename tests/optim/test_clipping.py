"""The global norm and what it clips: Optax's where that works, and right where it overflows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wallwm_jax.optim.clipping import clip_by_global_norm, global_norm


def tree(scale):
    generator = np.random.default_rng(0)
    return {name: jnp.asarray(scale * generator.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


SHAPES = {"a": (3, 4), "b": (5,), "empty": (0, 2)}


@pytest.mark.parametrize("scale", [1e-3, 1e2])
def test_it_is_optax_where_nothing_overflows(scale):
    """Norm and clipped gradients are bit-equal to Optax's, below and above the bound."""
    gradients, ours, theirs = tree(scale), clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)
    np.testing.assert_array_equal(jax.jit(global_norm)(gradients), jax.jit(optax.tree.norm)(gradients))
    found, expected = (jax.jit(clip.update)(gradients, clip.init(gradients))[0] for clip in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_huge_gradients_keep_their_direction():
    """Gradients of 1e20, whose squares overflow, come out as those of 1e2 do: norm one, same direction (1e-6)."""
    clip = clip_by_global_norm(1.0)
    found, expected = (jax.jit(clip.update)(tree(scale), clip.init(tree(scale)))[0] for scale in (1e20, 1e2))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), found, expected)
    np.testing.assert_allclose(global_norm(tree(1e20)), 1e18 * float(global_norm(tree(1e2))), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays_visible(value):
    """A single NaN or infinity makes the norm no finite number, so that the step can be skipped; no gradient at all
    has the norm 0."""
    gradients = tree(1.0)
    assert not np.isfinite(global_norm({**gradients, "b": gradients["b"].at[2].set(value)}))
    assert float(global_norm({})) == float(global_norm({"empty": gradients["empty"]})) == 0.0
