"""PSNR and SSIM against their definitions."""

import numpy as np
import pytest

from wallwm_jax.evaluate.video_quality import EventFrames, moved_psnr, psnr, ssim, video_quality


def _images(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_psnr_of_a_constant_offset_is_analytic():
    """An offset of 10 everywhere has a mean squared error of 100."""
    first = np.full((2, 12, 12, 3), 100, np.uint8)
    assert psnr(first, first + 10) == pytest.approx(10 * np.log10(255**2 / 100), abs=1e-4)
    assert psnr(first, first) == pytest.approx(100.0)


def test_ssim_equals_the_windowed_definition():
    """The matrix form equals the weighted mean, variance and covariance in each explicit 11 x 11 window."""
    first, second = _images(0, 14, 13), _images(1, 14, 13)
    x, y = (image.astype(float) @ [0.299, 0.587, 0.114] for image in (first, second))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for row in range(4):
        for column in range(3):
            a, b = (image[row : row + 11, column : column + 11] for image in (x, y))
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(first, second) == pytest.approx(np.mean(values), rel=1e-9)
    assert ssim(first, first) == pytest.approx(1.0)


def test_moved_psnr_ignores_what_did_not_move():
    """Errors outside the moved pixels do not count, errors inside do, and no motion gives NaN."""
    keyframe = np.zeros((12, 12, 3), np.uint8)
    truth = keyframe.copy()
    truth[:3] = 200
    predicted = truth.copy()
    predicted[6:] = 90
    assert moved_psnr(predicted, truth, keyframe) == pytest.approx(100.0)
    predicted[:3] = 100
    assert moved_psnr(predicted, truth, keyframe) == pytest.approx(10 * np.log10(255**2 / 100**2), abs=1e-4)
    assert np.isnan(moved_psnr(predicted, keyframe, keyframe))


def test_a_perfect_dream_beats_the_copy():
    """Means run over all images of events of different lengths; the copy is the keyframe."""
    events = []
    for seed, length in ((0, 2), (1, 3)):
        truth = _images(seed, length, 1, 16, 16)
        events.append(EventFrames(_images(seed + 10, 1, 16, 16), truth, truth, truth))
    quality = video_quality(events)
    assert quality.images == 5 and quality.events == 2
    assert quality.dream.psnr == pytest.approx(100.0) and quality.dream.ssim == pytest.approx(1.0)
    assert quality.copy.psnr < 12 and quality.copy.ssim < 0.2
