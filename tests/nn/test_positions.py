"""Rotary positions: scores depend on differences of position only, and on the view only in the camera bank."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.nn import positions

PAIRS = 12


@jax.jit
def _scores(query, key, frames):
    """Scores of two tokens' heads over a 2-slot, 3 x 4 grid: `[tokens, tokens]`."""
    angles = positions.within_view_angles(frames[None], 3, 4, PAIRS).reshape(1, -1, PAIRS)
    turn = positions.rotation(angles)
    shape = (1, angles.shape[1], 1, 2 * PAIRS)
    q, k = (positions.rotate(jnp.broadcast_to(x, shape), turn) for x in (query, key))
    return jnp.einsum("bqhd,bkhd->bqk", q, k)[0]


@settings(max_examples=20)
@given(st.integers(0, 40), st.integers(0, 5), st.integers(0, 2**31))
def test_scores_depend_on_relative_positions_only(start, step, seed):
    """Shifting every frame index, or both tokens' row or column, leaves the score as it was (1e-4: fp32 angles)."""
    rng = np.random.default_rng(seed)
    query, key = rng.normal(size=(2, 2 * PAIRS)).astype("f")
    frames = jnp.array([0, step])
    here, later = _scores(query, key, frames), _scores(query, key, frames + start)
    np.testing.assert_allclose(here, later, atol=1e-3)
    grid = np.asarray(here).reshape(2, 3, 4, 2, 3, 4)
    np.testing.assert_allclose(grid[0, 0, 0, 1, 1, 2], grid[0, 1, 1, 1, 2, 3], atol=1e-4)
    assert abs(grid[0, 0, 0, 1, 1, 2] - grid[0, 0, 0, 1, 2, 1]) > 1e-6


def test_rotation_keeps_lengths():
    """A rotation changes no norm, and position 0 changes nothing at all."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 24, 2, 2 * PAIRS)), "f")
    turn = positions.rotation(positions.within_view_angles(jnp.array([[0, 7]]), 3, 4, PAIRS).reshape(1, 24, PAIRS))
    turned = positions.rotate(x, turn)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_camera_bank_tells_views_apart():
    """Tokens at the same place differ only by their view's learned angles; equal angles make them equal."""
    shares = positions.split_pairs(PAIRS, 4)
    assert sum(shares) == PAIRS and positions.view_rotation_size(PAIRS) == shares[3]
    views = np.random.default_rng(0).normal(size=(2, shares[3])).astype("f")
    angles = np.asarray(positions.cross_view_angles(jnp.array([[0, 3]]), 2, 2, jnp.asarray(views), PAIRS))
    assert angles.shape == (1, 2, 2, 4, PAIRS)
    np.testing.assert_array_equal(angles[:, :, 0, :, : -shares[3]], angles[:, :, 1, :, : -shares[3]])
    np.testing.assert_array_equal(angles[0, 1, :, 3, -shares[3] :], views)


def test_rows_of_tau_count_from_the_anchor():
    """The anchor has row 0 and the future the rows after it, wherever the anchor is in its window; the past has rows of
    its own from the table's end, and nothing leaves the table."""
    frames = jnp.arange(6)
    found = {anchor: positions.tau_rows(frames - anchor, 16).tolist() for anchor in (0, 2)}
    assert found == {0: [0, 1, 2, 3, 4, 5], 2: [15, 16, 0, 1, 2, 3]}
    assert positions.tau_rows(jnp.array([-30, 40]), 16).tolist() == [1, 16]
