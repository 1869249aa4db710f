"""What the benchmark of a training step feeds it."""

import pathlib

import jax
import numpy as np
import pytest

from experiments.benchmarks.step import SPREAD, fitted, random_like, timed
from wallwm_jax.core.config import load
from wallwm_jax.core.mesh import batch_sharding, make_mesh
from wallwm_jax.plan.step import abstract_step
from wallwm_jax.train.families import stage_of

CONFIG = str(pathlib.Path(__file__).parents[2] / "experiments/tabletop.py:demo")
MICRO = ["model.variant=micro", "data.spatial_compression=4", "data.max_latent_frames=8", "stages.video.rows=2"]


@pytest.fixture(scope="module")
def step():
    return abstract_step(stage_of("video"), load(CONFIG, MICRO), 2, make_mesh("laptop"))


def test_pictures_cells_and_cameras_take_the_models_size(step):
    """Of 40 x 24 pixels, 10 x 6 cells, the nearest of 16 x 16 and 4 x 4; what a known camera projects stays in its
    place in the picture, an unknown one stays as it is. Other sizes that do not fit are refused."""
    batch = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), step.batch)
    intrinsics = batch.intrinsics + np.array([[30, 0, 12], [0, 50, 20], [0, 0, 1]], np.float32)
    frames = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (*batch.frames.shape[:4], 40, 24, 3))
    cells = np.broadcast_to(np.arange(6) > 2, (*batch.border_mask.shape[:3], 10, 6))
    known = np.arange(2) == np.zeros_like(batch.camera_mask)
    given = batch._replace(frames=frames, border_mask=cells, intrinsics=intrinsics, camera_mask=known)
    found = fitted(given, step.batch)
    assert found.frames.shape == step.batch.frames.shape
    np.testing.assert_array_equal(found.frames[0, 0, 0, 0, :, 0, 0], np.arange(16) * 40 // 16)
    np.testing.assert_array_equal(found.border_mask[0, 0, 0], np.tile([False, False, True, True], (4, 1)))
    np.testing.assert_allclose(found.intrinsics[0, 0, 0], [[20, 0, 8], [0, 20, 8], [0, 0, 1]])
    np.testing.assert_array_equal(found.intrinsics[0, 0, 1], intrinsics[0, 0, 1])
    with pytest.raises(ValueError, match="text"):
        fitted(given._replace(text=given.text[:, :, :-1]), step.batch)


def test_random_numbers_have_the_shapes_that_are_asked_for():
    """Every leaf its own, the same for the same seed; in its place, of its dtype."""
    place = batch_sharding(make_mesh("laptop"))
    asked = {name: jax.ShapeDtypeStruct((64, 3), dtype, sharding=place) for name, dtype in (("a", "f4"), ("b", "f2"))}
    found, again, other = (random_like(asked, seed) for seed in (0, 0, 1))
    assert {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place) for name, leaf in found.items()} == asked
    assert all(leaf.sharding == place for leaf in found.values())
    np.testing.assert_array_equal(found["a"], again["a"])
    np.testing.assert_allclose([np.std(found["a"]), np.std(other["a"])], SPREAD, rtol=0.2)
    assert not np.allclose(found["a"], found["b"], atol=1e-3) and not np.allclose(found["a"], other["a"], atol=1e-3)


def test_the_first_call_warms_up():
    """Every call gets what the one before returned; the first one's time is dropped."""
    seconds, last = timed(lambda number: number + 1, 0, 3)
    assert len(seconds) == 3 and last == 4
