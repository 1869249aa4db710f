"""The Haar codec: invertible with all bands, an orthogonal projection with fewer, causal in groups of four frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.video_codec import HaarCodec, decode_video, encode_video, haar_basis, haar_basis_2d

FULL = HaarCodec(spatial_levels=2, gain=4.0)
LOSSY = HaarCodec(spatial_levels=2, kept_spatial=4, kept_temporal=2, gain=4.0)


@functools.partial(jax.jit, static_argnums=0)
def _round_trip(codec, frames):
    latents = encode_video(codec, frames)
    return latents, decode_video(codec, latents)


def _video(seed=0, frames=9):
    return np.random.default_rng(seed).uniform(-1, 1, (2, frames, 2, 8, 12, 3)).astype("f")


@pytest.mark.parametrize("basis", [haar_basis(2), haar_basis_2d(3)[0]])
def test_basis_is_orthonormal(basis):
    """Analysis rows times their transpose are the identity: energy is kept, and the inverse is the transpose."""
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)


def test_bands_run_from_coarse_to_fine():
    """The first 4^k rows of the basis span exactly the images that are constant on blocks of side 2^(3 - k)."""
    basis, detail = haar_basis_2d(3)
    assert detail.tolist() == [0] + [1] * 3 + [2] * 12 + [3] * 48
    blocks = np.kron(np.random.default_rng(0).normal(size=(4, 4)), np.ones((2, 2))).reshape(-1)
    np.testing.assert_allclose(basis[16:] @ blocks, 0, atol=1e-12)


def test_full_codec_is_invertible():
    """decode(encode(x)) = x to fp32 rounding, and 1 + 4N frames become 1 + N latents."""
    video = _video()
    latents, again = _round_trip(FULL, video)
    assert latents.shape == (2, 3, 2, 2, 3, FULL.channels) and FULL.channels == 3 * 4 * 16
    np.testing.assert_allclose(again, video, atol=1e-5)


def test_pixels_are_scaled_and_views_stay_apart():
    """uint8 0..255 are the floats -1..1, and a view's latents are those of that view encoded alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 2, 8, 8, 3), dtype=np.uint8)
    latents = encode_video(LOSSY, jnp.asarray(pixels))
    floats = encode_video(LOSSY, jnp.asarray(pixels, jnp.float32) / 127.5 - 1.0)
    np.testing.assert_array_equal(latents, floats)
    alone = encode_video(LOSSY, jnp.asarray(pixels[:, :, 1:]))
    np.testing.assert_allclose(latents[:, :, 1:], alone, atol=1e-5)


def test_a_latent_depends_on_its_own_frames_only():
    """Changing frames 5..8 changes the third latent alone: the keyframe's latent never sees the future."""
    video, other = _video(), _video()
    other[:, 5:] = _video(seed=1)[:, 5:]
    one, two = (np.asarray(_round_trip(FULL, x)[0]) for x in (video, other))
    np.testing.assert_array_equal(one[:, :2], two[:, :2])
    assert np.all(one[:, 2] != two[:, 2])


def test_kept_bands_are_an_orthogonal_projection():
    """P = decode . encode on groups satisfies P P x = P x and <x - P x, P y> = 0, and is not the identity."""
    project = jax.jit(lambda groups: LOSSY.decode_groups(LOSSY.encode_groups(groups)))
    x, y = (np.random.default_rng(seed).normal(size=(3, 4, 8, 8, 3)).astype("f") for seed in (0, 1))
    px, py = np.asarray(project(x)), np.asarray(project(y))
    np.testing.assert_allclose(project(px), px, atol=1e-5)
    assert abs(np.vdot(x - px, py)) < 1e-4 * np.linalg.norm(x) * np.linalg.norm(py)
    assert np.linalg.norm(x - px) > 0.1 * np.linalg.norm(x)


def test_kept_bands_are_the_first_of_the_full_codec():
    """Fewer bands are a prefix of all bands, in time and in space, for every colour."""
    groups = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 8, 8, 3)), "f")
    full = np.asarray(FULL.encode_groups(groups)).reshape(3, 2, 2, 3, 4, 16)
    for kept_temporal, kept_spatial in ((1, 1), (2, 4), (3, 5), (4, 3)):
        codec = HaarCodec(spatial_levels=2, kept_spatial=kept_spatial, kept_temporal=kept_temporal, gain=4.0)
        few = np.asarray(codec.encode_groups(groups)).reshape(3, 2, 2, 3, kept_temporal, kept_spatial)
        np.testing.assert_allclose(few, full[..., :kept_temporal, :kept_spatial], atol=1e-4)


def test_still_smooth_frames_survive_the_lossy_codec():
    """A still frame that is constant on 2 x 2 blocks lies in the kept bands."""
    still = np.kron(np.random.default_rng(0).uniform(-1, 1, (1, 1, 1, 4, 6, 3)), np.ones((1, 9, 1, 2, 2, 1))).astype(
        "f"
    )
    np.testing.assert_allclose(_round_trip(LOSSY, still)[1], still, atol=1e-5)


@pytest.mark.parametrize("shape, field", [((1, 8, 1, 8, 8, 3), "frames"), ((1, 9, 1, 10, 8, 3), "frames")])
def test_wrong_shapes_are_refused(shape, field):
    """A frame count that is not 1 + 4N, or a side the codec does not divide, names the frames."""
    with pytest.raises(InputError, match=field):
        encode_video(FULL, jnp.zeros(shape))
    with pytest.raises(InputError, match="kept_spatial"):
        HaarCodec(spatial_levels=2, kept_spatial=17)
