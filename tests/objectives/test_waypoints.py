"""The labels and losses of waypoints: true places are the minimum; what is unknown, absent or hidden is no label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import SEGMENTS, SIZE, SLOTS, VIEWS, random_batch
from wallwm_jax.nn.waypoints import Waypoints
from wallwm_jax.objectives.waypoints import effector_places, gaze_loss, waypoint_loss

RIGHT, QUERIES, GRID = (1,), 2, (4, 4)


def _expected(batch, row, slot, raw):
    """(row, column) of the right effector in the synthetic cameras: 16 pixels of focal length, a metre in front."""
    x, y, z = batch.effectors[row, slot, raw, 1]
    pixels = np.array([16 * y / (1 + z) + 8, 16 * x / (1 + z) + 8])
    return 2 * pixels / SIZE - 1


def test_labels_are_the_effectors_projections():
    """Every future raw frame of every real slot, and the last of an anchor's, is labelled with its projection."""
    batch = random_batch(0)
    places, known = (np.asarray(part) for part in effector_places(batch, RIGHT))
    last = np.arange(4) == 3
    labelled = np.where(batch.observed_mask[..., None], last, batch.frame_mask[..., None])
    np.testing.assert_array_equal(known, np.broadcast_to(labelled[..., None, None], known.shape))
    for row, slot, raw in zip(*np.nonzero(labelled), strict=True):
        for view in range(VIEWS):
            np.testing.assert_allclose(
                places[row, slot, raw, view, 0], _expected(batch, row, slot, raw), rtol=1e-5, atol=1e-6
            )


def test_labels_are_in_the_anchors_camera():
    """A later slot's own camera is not looked through; the anchor's is."""
    batch = random_batch(1)
    moved = batch.extrinsics.copy()
    moved[:, 1, :, 0, 3] += 0.1
    later = batch._replace(extrinsics=moved)
    np.testing.assert_array_equal(effector_places(batch, RIGHT)[0], effector_places(later, RIGHT)[0])
    anchor = batch.extrinsics.copy()
    anchor[0, 0, :, 0, 3] += 0.1
    before, after = (np.asarray(effector_places(batch._replace(extrinsics=e), RIGHT)[0]) for e in (moved, anchor))
    assert np.abs(before - after)[0, 1].min() > 1e-3 and not np.any(before[0, 3] != after[0, 3])


@pytest.mark.parametrize("field", ["effector_mask", "camera_mask", "view_mask", "dof_mask"])
def test_what_is_unknown_is_no_label(field):
    """Without the effector's place, the camera's calibration, the view or the arm there is no label."""
    batch = random_batch(2)
    nothing = batch._replace(**{field: np.zeros_like(getattr(batch, field))})
    assert np.asarray(effector_places(batch, RIGHT)[1]).any()
    assert not np.asarray(effector_places(nothing, RIGHT)[1]).any()
    outside = batch._replace(effectors=np.full_like(batch.effectors, 3.0))
    assert not np.asarray(effector_places(outside, RIGHT)[1]).any()


def test_the_true_places_are_the_waypoint_losss_minimum():
    """At the labels the gradient to the places vanishes and any other place costs more; unlabelled places get none."""
    batch = random_batch(3)
    places, known = effector_places(batch, RIGHT)
    spreads = jnp.full(places.shape[:-1], 0.1)

    def loss(at):
        return waypoint_loss(Waypoints(at, spreads, None), batch, RIGHT)

    exact, slopes = jax.value_and_grad(loss)(places)
    assert np.abs(slopes).max() < 1e-6
    generator = np.random.default_rng(0)
    value, slopes = jax.value_and_grad(loss)(places + 0.1 * generator.normal(size=places.shape).astype("f"))
    assert value > exact
    assert (np.abs(np.asarray(slopes)).sum(-1) > 0)[np.asarray(known)].all()
    assert not np.asarray(slopes)[~np.asarray(known)].any()


def test_gaze_is_drawn_to_where_the_effector_will_be():
    """Query j of m learns the cells around the effector's place at the raw frame when (j + 1) / m of the event is done;
    an empty segment asks for nothing."""
    batch = random_batch(4)
    logits = jnp.zeros((2, SEGMENTS, VIEWS, QUERIES, *GRID))
    step = jax.jit(jax.grad(lambda at: gaze_loss(at, batch, RIGHT)))
    slope = np.asarray(step(logits))
    for _ in range(200):
        logits = logits - 20.0 * step(logits)
    looked = np.asarray(jax.nn.softmax(logits.reshape(*logits.shape[:4], -1), -1)).reshape(logits.shape)
    centres = (np.arange(4) + 0.5) / 4 * 2 - 1
    # The odd row's one event has 7 steps: half of it is done after 3.5, in raw frame 3 or 4; all after 7.
    for query, options in ((0, [(1, 2), (1, 3)]), (1, [(2, 2), (2, 3)])):
        mean = [(looked[1, 0, 0, query] * centres[:, None]).sum(), (looked[1, 0, 0, query] * centres).sum()]
        errors = [np.abs(np.clip(_expected(batch, 1, *option), -0.75, 0.75) - mean).max() for option in options]
        assert min(errors) < 0.02
    assert not slope[1, 1].any() and SLOTS == 4
