"""Flow matching arithmetic, caption drop, the packed cosine transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.objectives import cosine_transform, flow
from wallwm_jax.objectives.caption_drop import CaptionDrop, drop_captions, drop_probability
from wallwm_jax.objectives.segments import masked_mean, of_segments, rows_of_segments


@given(time=st.floats(0, 1), shift=st.floats(0.2, 8))
@settings(max_examples=30)
def test_path_target_and_clean_end_agree(time, shift):
    """d z_t / d t is the target, z_t - t v is the data, the shift keeps [0, 1] and its ends."""
    generator = np.random.default_rng(0)
    clean, noise = jnp.asarray(generator.normal(size=(2, 5)))
    noisy, target = flow.interpolate(clean, noise, time), flow.velocity(clean, noise)
    np.testing.assert_allclose(flow.interpolate(clean, noise, time + 0.5) - noisy, 0.5 * target, atol=1e-6)
    np.testing.assert_allclose(flow.clean_from_velocity(noisy, target, time), clean, atol=1e-6)
    assert 0 <= flow.shift_time(time, shift) <= 1 + 1e-6
    assert flow.shift_time(0.0, shift) == 0 and flow.shift_time(1.0, shift) == pytest.approx(1)


def test_clean_weight_makes_it_the_error_of_the_clean_end():
    """w(t) |v' - v|^2 = |z_0' - z_0|^2 for "clean"."""
    generator = np.random.default_rng(1)
    noisy, right, wrong = jnp.asarray(generator.normal(size=(3, 7)))
    ends = [flow.clean_from_velocity(noisy, value, 0.3) for value in (right, wrong)]
    found = flow.weight(jnp.float32(0.3), "clean") * (right - wrong) ** 2
    np.testing.assert_allclose(found, (ends[0] - ends[1]) ** 2, rtol=1e-5)
    with pytest.raises(InputError, match="score"):
        flow.weight(jnp.float32(0.3), "score")


@pytest.mark.parametrize("sampling, mean", [("uniform", 0.5), ("logit_normal", 0.5)])
def test_times_are_spread_and_shifted(sampling, mean):
    """Means of 4000 draws (standard error 0.005) with and without shift; more shift is more noise."""
    key = jax.random.key(0)
    plain = flow.sample_time(key, (4000,), sampling)
    assert float(plain.min()) >= 0 and float(plain.max()) <= 1
    assert float(plain.mean()) == pytest.approx(mean, abs=0.02)
    np.testing.assert_allclose(flow.sample_time(key, (4000,), sampling, 5.0), flow.shift_time(plain, 5.0))
    with pytest.raises(InputError, match="gamma"):
        flow.sample_time(key, (1,), "gamma")


def test_caption_drop_follows_the_half_cosine():
    """0.1 up to 129 raw frames, 0.9 from 220, half-way between at the middle; drawn event by event."""
    chosen = CaptionDrop()
    np.testing.assert_allclose(drop_probability(jnp.array([5, 129, 220, 500]), chosen), [0.1, 0.1, 0.9, 0.9], rtol=1e-5)
    assert float(drop_probability(jnp.float32(174.5), chosen)) == pytest.approx(0.5)
    mask = jnp.ones((2000, 2, 3), bool)
    steps = jnp.broadcast_to(jnp.array([10, 400]), (2000, 2))
    kept = np.asarray(drop_captions(jax.random.key(0), mask, steps, chosen))
    np.testing.assert_allclose(kept.all(-1).mean(0), [0.9, 0.1], atol=0.03)  # four standard errors
    assert (kept.all(-1) == kept.any(-1)).all()
    with pytest.raises(InputError, match="low_frames"):
        CaptionDrop(low_frames=300)


@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_packed_cosine_transform_is_each_events_own(lengths, seed):
    """Every event's block is the orthonormal DCT-II of its own steps, and padding is zero."""
    padding = 14 - sum(lengths)
    ids = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(padding, int)])[None]
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(padding, int)])[None]
    values = np.random.default_rng(seed).normal(size=ids.shape)
    basis, decay = cosine_transform.packed_basis(*map(jnp.asarray, (ids, positions, ids > 0)))
    found, start = np.einsum("bjk,bk->bj", basis, values)[0], 0
    for n in lengths:
        own = values[0, start : start + n]
        angle = np.pi / n * np.arange(n)[:, None] * (np.arange(n)[None] + 0.5)
        scale = np.where(np.arange(n) == 0, np.sqrt(1 / n), np.sqrt(2 / n))
        np.testing.assert_allclose(found[start : start + n], scale * (np.cos(angle) @ own), atol=1e-5)
        np.testing.assert_allclose(decay[0, start : start + n], np.exp(-np.arange(n) / (n / 4)), rtol=1e-5)
        start += n
    assert (found[start:] == 0).all()


def test_segments_and_masked_means():
    """Slots read their own segment's value in every draw; a mean over nothing is zero."""
    values = jnp.arange(12.0).reshape(1, 3, 4)
    ids = jnp.array([[2, 4, 0, 1]])
    np.testing.assert_array_equal(of_segments(values, ids)[0], values[0][:, [1, 3, 0, 0]])
    np.testing.assert_array_equal(of_segments(values[:, 0], ids)[0], [1, 3, 0, 0])
    np.testing.assert_array_equal(rows_of_segments(values.mT, ids)[0, :, 2], values[0, 2, jnp.array([1, 3, 0, 0])])
    assert masked_mean(jnp.array([1.0, jnp.inf, 3.0]), jnp.array([True, False, True])) == 2
    assert masked_mean(jnp.ones(3), jnp.zeros(3, bool)) == 0
