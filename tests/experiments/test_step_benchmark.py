"""What the benchmark of a training step feeds it."""

import pathlib

import jax
import numpy as np
import pytest

from experiments.benchmarks.step import fitted, random_state, timed
from wallwm_jax.core.config import load
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.optim import freeze
from wallwm_jax.plan.step import abstract_step
from wallwm_jax.train.stages import stage_of

CONFIG = str(pathlib.Path(__file__).parents[2] / "experiments/tabletop.py:demo")
MICRO = ["model.variant=micro", "data.spatial_compression=4", "data.max_latent_frames=8", "stages.video.rows=2"]


@pytest.fixture(scope="module")
def step():
    config = load(CONFIG, [*MICRO, 'stages.video.freeze=("text_encoder",)'])
    return abstract_step(stage_of("video"), config, 2, make_mesh("laptop"))


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


def test_a_state_is_random_and_at_its_first_step(step):
    """Of the step's own shapes and dtypes; the optimizer's part is zero, the average covers what is trained."""
    state = random_state(step)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), step.state
    )
    trained, frozen = freeze.split(state.parameters, step.run.stage.trains)
    assert "text_encoder" in frozen and jax.tree.structure(state.average) == jax.tree.structure(trained)
    assert all(float(np.std(leaf)) > 0.01 for leaf in jax.tree.leaves(trained) if leaf.size > 100)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer_state)) and int(state.step) == 0


def test_the_first_call_warms_up():
    """Every call gets what the one before returned; the first one's time is dropped."""
    seconds, last = timed(lambda number: number + 1, 0, 3)
    assert len(seconds) == 3 and last == 4
