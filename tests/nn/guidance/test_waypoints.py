"""Waypoints: when a frame is, where a point lies in a picture, what a bump and a moved picture show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.synthetic import SLOTS, random_batch
from wallwm_jax.nn.cameras import project
from wallwm_jax.nn.guidance.waypoint_labels import progress_of
from wallwm_jax.nn.guidance.waypoints import Waypoints, known_arms, moved_pictures, waypoint_maps
from wallwm_jax.nn.sight_cones import patch_cones


def batch_of(seed):
    """As a compiled program sees it."""
    return jax.tree.map(jnp.asarray, random_batch(seed))


def test_a_point_on_a_pixels_ray_is_projected_to_that_pixel():
    """Points along the axes of a turned camera's patch cones come back as the patches' centres; behind, beside and in
    a camera's centre there is nothing to see."""
    intrinsics = np.array([[20.0, 0, 9], [0, 18, 7], [0, 0, 1]], "f")
    angle = 0.7
    extrinsics = np.eye(4, dtype="f")
    extrinsics[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    extrinsics[:3, 3] = [0.1, -0.2, 0.3]
    cones = patch_cones(jnp.asarray(intrinsics), jnp.asarray(extrinsics), (2, 4), 4)
    cameras = (jnp.broadcast_to(intrinsics, (8, 3, 3)), jnp.broadcast_to(extrinsics, (8, 4, 4)))
    centres = [[(row + 0.5) / 2 * 2 - 1, (column + 0.5) / 4 * 2 - 1] for row in range(2) for column in range(4)]
    for distance in (0.5, 2.0):
        places, inside = project(cones.apex + distance * cones.axis, *cameras, (8, 16))
        assert inside.all()
        np.testing.assert_allclose(places, centres, atol=1e-5)
    for distance in (-0.5, 0.0):
        places, inside = project(cones.apex + distance * cones.axis, *cameras, (8, 16))
        assert not inside.any() and not np.any(places)


def test_progress_counts_from_the_anchor_to_the_events_end():
    """In packed rows every raw frame has its own event's time and share; observed and padded slots have none."""
    batch = batch_of(0)
    seconds, done = (np.asarray(part) for part in progress_of(batch))
    # Slot 1 covers the first 0.2 s in four raw frames; the events of the even row last 4 and 3 steps of 0.05 s.
    np.testing.assert_allclose(seconds[0, 1], [0.05, 0.1, 0.15, 0.2], rtol=1e-6)
    np.testing.assert_allclose(done[0, 1], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(done[0, 3], [1 / 3, 2 / 3, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(seconds[1, 2], [0.25, 0.3, 0.35, 0.4], rtol=1e-6)
    np.testing.assert_allclose(done[1, 2], np.minimum(np.array([5, 6, 7, 8]) / 7, 1.0), rtol=1e-6)
    assert not seconds[:, 0].any() and not done[:, 0].any() and not done[1, SLOTS - 1].any()


def test_progress_does_not_depend_on_what_is_masked():
    """Other times in padded action steps and slots: the same progress; without actions an event counts as done."""
    batch = batch_of(1)
    changed = batch._replace(
        action_times=jnp.where(batch.action_mask, batch.action_times, 99.0),
        frame_times=jnp.where(batch.frame_mask, batch.frame_times, 99.0),
    )
    for one, other in zip(progress_of(batch), progress_of(changed), strict=True):
        np.testing.assert_array_equal(one, other)
    _, done = progress_of(batch._replace(action_mask=jnp.zeros_like(batch.action_mask)))
    future = np.asarray(batch.frame_mask & ~batch.observed_mask)
    assert (np.asarray(done)[future] == 1).all() and not np.asarray(done)[~future].any()


@settings(max_examples=20)
@given(row=st.integers(-5, 5), column=st.integers(-7, 7))
def test_a_moved_picture_is_the_picture_elsewhere(row, column):
    """Every pixel of a moved picture is the one that was so many rows and columns before, or the nearest edge's."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (1, 1, 1, 6, 8, 3), np.uint8)
    shift = np.array([row / 3.0, column / 4.0], "f").reshape(1, 1, 1, 1, 1, 2)
    moved = np.asarray(moved_pictures(jnp.asarray(pictures), jnp.asarray(shift)))[0, 0, 0, 0, 0]
    rows, columns = np.clip(np.arange(6) - row, 0, 5), np.clip(np.arange(8) - column, 0, 7)
    np.testing.assert_array_equal(moved, pictures[0, 0, 0][rows][:, columns])


def test_a_bump_stands_where_its_waypoint_is():
    """The largest value of a map is in the waypoint's own cell; one map a raw frame and arm; none where not shown."""
    generator = np.random.default_rng(2)
    places = generator.uniform(-1, 1, (2, 3, 4, 2, 2, 2)).astype("f")
    found = Waypoints(jnp.asarray(places), jnp.full(places.shape[:-1], 0.1), None)
    shown = np.ones((2, 3, 2, 2), bool)
    shown[0, 1, 1, 0] = False
    maps = np.asarray(waypoint_maps(found, jnp.asarray(shown), (5, 7))).reshape(2, 3, 2, 5, 7, 4, 2)
    highest = maps.transpose(0, 1, 5, 2, 6, 3, 4).reshape(2, 3, 4, 2, 2, 35).argmax(-1)
    cells = np.floor((places + 1) / 2 * [5, 7]).astype(int)
    expected = np.where(shown[:, :, None], cells[..., 0] * 7 + cells[..., 1], 0)
    np.testing.assert_array_equal(highest, expected)
    assert not maps[0, 1, 1, ..., 0].any() and maps[0, 1, 1, ..., 1].any()


@pytest.mark.parametrize("arms, expected", [((0, 1), [False, True]), ((1,), [True]), ((0,), [False])])
def test_an_arm_is_known_by_its_position(arms, expected):
    """The synthetic robot has a right arm alone."""
    np.testing.assert_array_equal(known_arms(batch_of(3), arms)[0, 0], expected)
