"""The losses of waypoints and gaze: the true places are their minimum, and what is not known has no part."""

import jax
import jax.numpy as jnp
import numpy as np

from wallwm_jax.objectives.waypoints import gaze_loss, waypoint_loss


def _places(seed, *shape):
    """(true places, what is known, other places)."""
    generator = np.random.default_rng(seed)
    true, other = generator.uniform(-0.8, 0.8, (2, *shape, 2)).astype("f")
    return jnp.asarray(true), jnp.asarray(generator.uniform(size=shape) < 0.6), jnp.asarray(other)


def test_the_true_places_are_the_waypoint_losss_minimum():
    """At the labels the gradient to the places vanishes and any other place costs more; unlabelled places get none."""
    true, known, other = _places(0, 3, 4)
    slope = jax.value_and_grad(lambda places: waypoint_loss(places, jnp.full(places.shape[:-1], 0.1), true, known))
    exact, flat = slope(true)
    worse, slopes = slope(other)
    assert np.abs(flat).max() < 1e-3 and worse > exact
    np.testing.assert_array_equal(np.abs(np.asarray(slopes)).sum(-1) > 0, known)


def test_the_best_spread_is_half_the_distance():
    """A Laplace distribution in the plane is likeliest with b = |d| / 2."""
    true, known = jnp.zeros((1, 2)), jnp.ones(1, bool)
    places = jnp.array([[0.0, 0.6]])
    losses = {b: float(waypoint_loss(places, jnp.full(1, b), true, known)) for b in (0.2, 0.3, 0.4)}
    assert losses[0.3] < min(losses[0.2], losses[0.4])


def test_gaze_is_drawn_to_the_labels_cells():
    """Descent ends with the looked-at cells' mean at the label, by query and view; unlabelled ones are not moved."""
    true, known, _ = _places(1, 2, 1, 2, 3, 1)
    true = jnp.clip(true, -0.75, 0.75)
    logits = jnp.zeros((2, 1, 2, 3, 4, 4))
    step = jax.jit(jax.grad(lambda at: gaze_loss(at, true, known)))
    for _ in range(400):
        logits = logits - 20.0 * step(logits)
    looked = np.asarray(jax.nn.softmax(logits.reshape(2, 1, 2, 3, 16), -1)).reshape(logits.shape)
    centres = (np.arange(4) + 0.5) / 4 * 2 - 1
    mean = np.stack([(looked.sum(-1) * centres).sum(-1), (looked.sum(-2) * centres).sum(-1)], -1)
    labelled = np.asarray(known)[..., 0]
    assert labelled.any() and np.abs(mean - np.asarray(true)[..., 0, :])[labelled].max() < 0.02
    assert not np.asarray(logits)[~labelled].any() and not labelled.all()


def test_arms_share_a_look():
    """With two arms known the target is the mean of both cells; with one known, its own alone."""
    true = jnp.array([[-0.75, -0.75], [0.75, 0.75]]).reshape(1, 1, 1, 1, 2, 2)
    slope = jax.grad(gaze_loss)
    logits = jnp.zeros((1, 1, 1, 1, 4, 4))
    both = 1 / 16 - np.asarray(slope(logits, true, jnp.ones((1, 1, 1, 1, 2), bool)))[0, 0, 0, 0]
    one = 1 / 16 - np.asarray(slope(logits, true, jnp.array([False, True]).reshape(1, 1, 1, 1, 2)))[0, 0, 0, 0]
    np.testing.assert_allclose([both[0, 0], both[3, 3], one[0, 0], one[3, 3]], [0.5, 0.5, 0.0, 1.0], atol=1e-6)
