"""The labels of waypoints: projections into the anchor's picture; what is unknown, absent or hidden is no label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import SIZE, VIEWS, random_batch
from wallwm_jax.nn.guidance.waypoint_labels import waypoint_labels
from wallwm_jax.nn.guidance.waypoints import known_arms

RIGHT = (1,)


@pytest.fixture(scope="module")
def labels():
    compiled = jax.jit(lambda batch: waypoint_labels(batch, known_arms(batch, RIGHT), RIGHT, 2))
    return lambda batch: jax.tree.map(np.asarray, compiled(jax.tree.map(jnp.asarray, batch)))


def _expected(batch, row, slot, raw):
    """(row, column) of the right effector in the synthetic cameras: 16 pixels of focal length, a metre in front."""
    x, y, z = batch.effectors[row, slot, raw, 1]
    pixels = np.array([16 * y / (1 + z) + 8, 16 * x / (1 + z) + 8])
    return 2 * pixels / SIZE - 1


def test_labels_are_the_effectors_projections(labels):
    """Every future raw frame of every real slot, and the last of an anchor's, is labelled with its projection."""
    batch = random_batch(0)
    found = labels(batch)
    labelled = np.where(batch.observed_mask[..., None], np.arange(4) == 3, batch.frame_mask[..., None])
    np.testing.assert_array_equal(found.known, np.broadcast_to(labelled[..., None, None], found.known.shape))
    for place in zip(*np.nonzero(labelled), strict=True):
        for view in range(VIEWS):
            np.testing.assert_allclose(found.places[*place, view, 0], _expected(batch, *place), rtol=1e-5, atol=1e-6)


def test_labels_are_in_the_anchors_picture(labels):
    """A later slot's own camera is not looked through; the anchor's is, by its own event alone."""
    batch = random_batch(1)
    later, anchor = batch.extrinsics.copy(), batch.extrinsics.copy()
    later[:, 1, :, 0, 3] += 0.1
    anchor[0, 0, :, 0, 3] += 0.1
    places = labels(batch).places
    np.testing.assert_array_equal(labels(batch._replace(extrinsics=later)).places, places)
    moved = np.abs(labels(batch._replace(extrinsics=anchor)).places - places)
    assert moved[0, 1].max(-1).min() > 1e-3 and not moved[0, 2:].any() and not moved[1].any()


def test_queries_look_where_the_effector_is_when_their_share_is_done(labels):
    """The odd row's event has 7 steps in 8 raw frames: half of it is done in the third or fourth, all in the seventh
    or eighth; an empty segment asks for nothing."""
    batch = random_batch(2)
    found = labels(batch)
    for query, options in ((0, [(1, 2), (1, 3)]), (1, [(2, 2), (2, 3)])):
        errors = [np.abs(found.gaze[1, 0, 0, query, 0] - _expected(batch, 1, *option)).max() for option in options]
        assert min(errors) < 1e-5
    assert found.gaze_known[1, 0].all() and not found.gaze_known[1, 1].any()


@pytest.mark.parametrize("field", ["effector_mask", "camera_mask", "view_mask", "dof_mask"])
def test_what_is_unknown_is_no_label(labels, field):
    """Without the effector's place, the camera's calibration, the view or the arm there is no label; nor outside the
    picture."""
    batch = random_batch(3)
    nothing = labels(batch._replace(**{field: np.zeros_like(getattr(batch, field))}))
    assert labels(batch).known.any() and not nothing.known.any() and not nothing.gaze_known.any()
    outside = labels(batch._replace(effectors=np.full_like(batch.effectors, 3.0)))
    assert not outside.known.any() and not outside.places.any()
