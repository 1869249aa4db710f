"""Pictures of another size and shape than the native ones, and batches with fewer cameras than the view table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction

TABLE, PIXELS, CELLS, CHANNELS = 3, (16, 24), (4, 6), 24


def wide_batch(views):
    """The synthetic events in pictures of 16 x 24 pixels from `views` cameras."""
    batch, generator = random_batch(1), np.random.default_rng(2)
    shape = batch.frame_mask.shape
    frames = generator.integers(0, 256, (*shape, 4, TABLE, *PIXELS, 3), dtype=np.uint8)[:, :, :, :views]
    cameras = {
        name: np.repeat(getattr(batch, name)[:, :, :1], views, 2)
        for name in ("intrinsics", "extrinsics", "camera_mask")
    }
    masks = {
        "view_mask": np.ones((*shape, views), bool),
        "border_mask": np.ones((*shape, views, *CELLS), bool),
    }
    return batch._replace(frames=frames, **cameras, **masks)


@pytest.fixture(scope="module")
def joint():
    """One joint pass of a model with a view table of three, with parameters off their zeros."""
    model = WorldAction(variant("micro"), views=TABLE)
    params, _ = init_parameters(model, jax.random.key(0), wide_batch(TABLE))
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * generator.normal(size=leaf.shape).astype("f"), params)
    noisy = jnp.asarray(generator.normal(size=(2, 4, TABLE, *CELLS, CHANNELS)), "f4")
    actions = jnp.asarray(generator.normal(size=(2, 1, 12, 26)), "f4")
    times = jnp.full((2, 2), 0.6), jnp.full((2, 1, 2), 0.7)

    @jax.jit
    def run(batch):
        return model.apply({"params": params}, batch, noisy[:, :, : batch.view_mask.shape[2]], actions, *times)

    return lambda batch: jax.tree.map(np.asarray, run(jax.tree.map(jnp.asarray, batch)))


def test_two_cameras_of_three_are_a_masked_third(joint):
    """In wide pictures: video, actions and durations of a batch with two views are those of one whose third view is
    masked (1e-4 of the largest: sums of other lengths). The third does matter where it is shown, so that the test can
    fail."""
    two, three = wide_batch(2), wide_batch(3)
    masked = three._replace(view_mask=three.view_mask & np.array([True, True, False]))
    alone, beside, shown = joint(two), joint(masked), joint(three)
    pairs = [(alone.video, beside.video[:, :, :2]), (alone.action, beside.action), (alone.log_steps, beside.log_steps)]
    real = two.frame_mask[..., None, None, None, None]
    pairs[0] = tuple(np.where(real, part, 0) for part in pairs[0])
    for one, other in pairs:
        assert np.isfinite(one).all() and np.abs(one).max() > 1e-2
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())
    assert np.abs(shown.action - alone.action).max() > 1e-3
