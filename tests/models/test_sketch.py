"""Waypoints and sketch in the model: what is drawn decides the dream of its own event, and stays out of all else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ARM = slice(10, 13)


@pytest.fixture(scope="module")
def drawn(micro, inputs):
    """(waypoints, a function of other waypoints to (sketch, video velocity)) on the packed samples, jitted."""
    batch, noises = jax.tree.map(jnp.asarray, inputs)

    @jax.jit
    def waypoints(given):
        return micro.apply(micro.params, given, **micro.text(micro.params, given), method="waypoints")

    @jax.jit
    def draw(given, found):
        latents = micro.apply(micro.params, given.frames, method="encode_frames")
        observed = micro.apply(micro.params, given, latents, method="keyframes")
        sketch = micro.apply(micro.params, given, observed, found, method="sketch")
        told = {**micro.text(micro.params, given), "sketch": sketch, "method": "video"}
        inputs = (given, noises["noisy_video"], observed, noises["video_time"])
        return sketch, micro.apply(micro.params, *inputs, **told)[0]

    return batch, waypoints, draw


def test_sketches_are_for_slots_to_be_generated(drawn):
    """Given slots, padding and absent views hold exact zeros; the others do not. The synthetic robot has no left arm,
    whose maps are blank."""
    batch, waypoints, draw = drawn
    sketch, _ = draw(batch, waypoints(batch))
    future = np.asarray((batch.frame_mask & ~batch.observed_mask)[..., None] & batch.view_mask)
    for part in sketch:
        filled = np.abs(np.asarray(part)).sum((3, 4, 5)) > 0
        np.testing.assert_array_equal(filled, future)
    maps = np.asarray(sketch.maps).reshape(*sketch.maps.shape[:-1], 4, 2)
    assert not maps[..., 0].any() and maps[..., 1].any()


def test_without_a_known_arm_there_is_nothing_to_move(drawn, micro):
    """A robot whose arms' positions nobody knows gets no bump, and wherever waypoints are makes no difference."""
    batch, waypoints, draw = drawn
    unknown = batch._replace(dof_mask=batch.dof_mask.at[..., ARM].set(False))
    found = waypoints(unknown)
    one, other = (draw(unknown, found._replace(places=found.places + shift))[0] for shift in (0.0, 0.5))
    assert not np.any(one.maps)
    np.testing.assert_array_equal(one.painted, other.painted)


def test_the_dream_follows_the_waypoints_of_its_own_event(drawn):
    """Other places for one event change its video, and not a bit of its neighbour's in the same row."""
    batch, waypoints, draw = drawn
    found = waypoints(batch)
    own = (batch.frame_segment_ids == 1) & ~batch.observed_mask
    moved = found._replace(places=jnp.where(own[:, :, None, None, None, None], found.places + 0.4, found.places))
    before, after = (np.asarray(draw(batch, part)[1]) for part in (found, moved))
    first, second = (np.asarray((batch.frame_segment_ids[0] == n) & batch.frame_mask[0]) for n in (1, 2))
    assert np.abs(before - after)[0, first].max() > 1e-3
    np.testing.assert_array_equal(before[0, second], after[0, second])


def test_no_gradient_reaches_waypoints_through_what_is_drawn(drawn):
    """Where the arm goes is learned from where it went, not from how pictures look."""
    batch, waypoints, draw = drawn
    found = waypoints(batch)
    slope = jax.grad(lambda places: jnp.sum(draw(batch, found._replace(places=places))[1] ** 2))(found.places)
    assert not np.any(slope)
