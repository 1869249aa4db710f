"""Masks of packed rows, and sight cones on cameras whose geometry is known by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.nn import masks, sight_cones
from wallwm_jax.nn.attention import attend, attention_mask

GRID, PATCH, SIDE = (4, 4), 8, 32


def _camera(position, target, up=(0.0, 0.0, 1.0)):
    """(intrinsics, world-to-camera extrinsics) of an OpenCV camera of 90 degrees field of view."""
    forward = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
    turn = np.stack([right, np.cross(forward, right), forward])
    extrinsics = np.eye(4)
    extrinsics[:3, :3], extrinsics[:3, 3] = turn, -turn @ np.asarray(position)
    focal = SIDE / 2
    return np.array([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]]), extrinsics


def _patch_of(camera, point):
    """The index of the patch that shows a world point, or None."""
    intrinsics, extrinsics = camera
    seen = intrinsics @ (extrinsics[:3, :3] @ point + extrinsics[:3, 3])
    column, row = (seen[:2] / seen[2] // PATCH).astype(int)
    return row * GRID[1] + column if seen[2] > 0 and 0 <= row < GRID[0] and 0 <= column < GRID[1] else None


FRONT, SIDEWAYS = _camera((1.0, 0.0, 0.0), (0.0, 0.0, 0.0)), _camera((0.0, 1.0, 0.2), (0.0, 0.0, 0.0))


def _visible(cameras, known):
    intrinsics, extrinsics = (np.stack(part)[None, None].astype("f") for part in zip(*cameras, strict=True))
    mask = jax.jit(lambda i, e, k: masks.sight_cone_mask(i, e, k, GRID, PATCH, (0.05, 3.0)))
    return np.asarray(mask(intrinsics, extrinsics, np.array(known)[None, None]))[0, 0]


@pytest.fixture(scope="module")
def visible():
    return _visible([FRONT, SIDEWAYS], [True, True])


def test_patches_that_show_one_point_are_co_visible(visible):
    """Of 300 points that both cameras see, the two patches showing it are never masked out (eq. 6)."""
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (300, 3))
    pairs = [(_patch_of(FRONT, point), _patch_of(SIDEWAYS, point)) for point in points]
    pairs = [pair for pair in pairs if None not in pair]
    assert len(pairs) > 100
    assert all(visible[u, 16 + v] and visible[16 + v, u] for u, v in pairs)


def test_patches_whose_rays_part_are_masked(visible):
    """The top row of one camera and the bottom row of the other look away from each other; some pairs remain."""
    across = visible[:16, 16:]
    assert not across[:4, 12:].any() and not across[12:, :4].any()
    assert 0.1 < across.mean() < 0.9


def test_same_view_pairs_are_always_allowed(visible):
    """Within one camera nothing is masked, whatever the cones say."""
    assert visible[:16, :16].all() and visible[16:, 16:].all()


def test_unknown_cameras_are_never_masked():
    """A camera without calibration (zeros) keeps all its pairs, and no number turns into NaN."""
    unknown = (np.zeros((3, 3)), np.zeros((4, 4)))
    assert _visible([FRONT, unknown], [True, False]).all()
    cones = sight_cones.patch_cones(*(jnp.asarray(part, "f") for part in unknown), GRID, PATCH)
    assert all(np.isfinite(part).all() for part in cones)


def test_cones_enclose_their_patch():
    """The angle from a patch's axis to the ray of any of its pixels is at most its half-angle, and not by far."""
    intrinsics, extrinsics = FRONT
    cones = sight_cones.patch_cones(jnp.asarray(intrinsics), jnp.asarray(extrinsics), GRID, PATCH)
    np.testing.assert_allclose(cones.apex, np.broadcast_to([1.0, 0.0, 0.0], (16, 3)), atol=1e-6)
    for patch in (0, 5, 15):
        y, x = np.divmod(patch, GRID[1])
        corner = np.array([(x + 1) * PATCH, y * PATCH, 1.0])
        ray = extrinsics[:3, :3].T @ np.linalg.inv(intrinsics) @ corner
        angle = np.arccos(ray @ np.asarray(cones.axis[patch]) / np.linalg.norm(ray))
        assert 0.5 * cones.half_angle[patch] < angle <= cones.half_angle[patch] + 1e-5


def test_attention_stays_in_the_event_and_on_what_is_real():
    """Keys of another event, padding and absent views are blocked in all three masks."""
    ids = jnp.array([[1, 1, 2, 0]])
    real = jnp.array([[[True, True], [True, False], [True, True], [False, False]]])
    within = np.asarray(masks.within_view_mask(ids, real, 1).bias[:, 0]) == 0
    np.testing.assert_array_equal(within[0], np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool))
    np.testing.assert_array_equal(within[1, 0], [True, False, False, False])
    across = masks.cross_view_mask(real, 1)
    np.testing.assert_array_equal(np.asarray(across.bias[1, 0]) == 0, [[True, False], [True, False]])
    assert not np.asarray(across.rows[3]).any()
    coupling = masks.coupling_mask(jnp.array([[2, 0]]), ids, real, 1)
    np.testing.assert_array_equal(np.asarray(coupling.bias[0, 0, 0]) == 0, [0, 0, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(np.asarray(coupling.rows[0, :, 0, 0]), [True, False])


def test_masked_keys_have_exactly_no_influence():
    """Output and gradients ignore masked keys bit for bit; a query without keys returns zeros, not NaN."""
    rng = np.random.default_rng(0)
    q, k, v = jnp.asarray(rng.normal(size=(3, 1, 4, 2, 6)), "f")
    mask = attention_mask(jnp.array([[[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]]], bool))
    blocked = np.array([False, False, True, False])[None, :, None, None]
    k2, v2 = (jnp.where(blocked, 1e6, x) for x in (k, v))

    def total(k, v):
        mixed = attend(q, k, v, mask)
        return jnp.sum(jnp.sin(mixed)), mixed

    run = jax.jit(lambda k, v: jax.grad(total, (0, 1), has_aux=True)(k, v)[::-1])
    (one, gradients), (two, _) = run(k, v), run(k2, v2)
    np.testing.assert_array_equal(one, two)
    assert np.all(np.asarray(one[:, 2]) == 0) and np.all(np.isfinite(one))
    assert all(np.all(np.asarray(g[:, 2]) == 0) and np.abs(g).max() > 0 for g in gradients)
