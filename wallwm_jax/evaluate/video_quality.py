"""PSNR and SSIM of predicted frames, in plain numpy."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

WINDOW, SIGMA = 11, 1.5
LUMA = np.array([0.299, 0.587, 0.114])
MOVED = 25
"""A pixel has moved if a channel differs from the keyframe by more than this (of 255)."""


def psnr(first: UInt8[np.ndarray, "... H W 3"], second: UInt8[np.ndarray, "... H W 3"]) -> Float[np.ndarray, "..."]:
    """Peak signal-to-noise ratio in dB of each image; equal images give 100 dB instead of infinity."""
    difference = first.astype(np.float32) - second.astype(np.float32)
    return _decibel(np.asarray(np.mean(difference**2, axis=(-3, -2, -1))))


def moved_psnr(
    predicted: UInt8[np.ndarray, "... H W 3"],
    truth: UInt8[np.ndarray, "... H W 3"],
    keyframe: UInt8[np.ndarray, "... H W 3"],
) -> Float[np.ndarray, "..."]:
    """PSNR over the pixels in which `truth` differs from `keyframe`; NaN where none does.

    A static background flatters every prediction; this number looks at what the event changed and nothing else.
    """
    moved = np.any(np.abs(truth.astype(np.int16) - keyframe.astype(np.int16)) > MOVED, axis=-1)
    squared = np.mean((predicted.astype(np.float32) - truth.astype(np.float32)) ** 2, axis=-1)
    count = moved.sum(axis=(-2, -1))
    error = (squared * moved).sum(axis=(-2, -1)) / np.maximum(count, 1)
    return np.where(count > 0, _decibel(np.asarray(error)), np.nan)


def _decibel(mean_squared_error: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.asarray(10.0 * np.log10(255.0**2 / np.maximum(mean_squared_error, 255.0**2 * 1e-10)))


def ssim(first: UInt8[np.ndarray, "... H W 3"], second: UInt8[np.ndarray, "... H W 3"]) -> Float[np.ndarray, "..."]:
    """Mean structural similarity (Wang et al. 2004) of the luma: Gaussian window 11, sigma 1.5, K1 0.01, K2 0.03, no
    padding. Images must be at least 11 pixels wide and high."""
    x, y = (image.astype(np.float64) @ LUMA for image in (first, second))
    rows, columns = _window_matrix(x.shape[-2]), _window_matrix(x.shape[-1])

    def blur(image):
        return rows.T @ image @ columns

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = top / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return np.asarray(similarity.mean(axis=(-2, -1)))


def _window_matrix(size: int) -> Float[np.ndarray, "size valid"]:
    """The Gaussian window as a banded matrix, so that filtering is two matrix products."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    matrix = np.zeros((size, size - WINDOW + 1))
    for column in range(size - WINDOW + 1):
        matrix[column : column + WINDOW, column] = weights / weights.sum()
    return matrix


@dataclasses.dataclass(frozen=True)
class FrameQuality:
    """Means over images. PSNR in dB."""

    psnr: float
    ssim: float
    moved_psnr: float


@dataclasses.dataclass(frozen=True)
class VideoQuality:
    """Dream against copying the keyframe and against the codec's own reconstruction of the truth (its ceiling)."""

    dream: FrameQuality
    copy: FrameQuality
    codec: FrameQuality
    events: int
    images: int


@dataclasses.dataclass(frozen=True)
class EventFrames:
    """Frames of one event after the keyframe, one a latent slot; the keyframe; what each way predicts for them."""

    keyframe: UInt8[np.ndarray, "V H W 3"]
    truth: UInt8[np.ndarray, "T V H W 3"]
    dream: UInt8[np.ndarray, "T V H W 3"]
    codec: UInt8[np.ndarray, "T V H W 3"]


def video_quality(events: Sequence[EventFrames]) -> VideoQuality:
    """Means over every image (frame and view) of every event; the list must not be empty."""
    truth = _flat([event.truth for event in events])
    keyframe = _flat([np.broadcast_to(event.keyframe, event.truth.shape) for event in events])
    dream, codec = _flat([event.dream for event in events]), _flat([event.codec for event in events])
    measured = [_quality(predicted, truth, keyframe) for predicted in (dream, keyframe, codec)]
    return VideoQuality(*measured, events=len(events), images=len(truth))


def _flat(parts: list[np.ndarray]) -> UInt8[np.ndarray, "N H W 3"]:
    return np.concatenate([part.reshape(-1, *part.shape[-3:]) for part in parts])


def _quality(predicted, truth, keyframe) -> FrameQuality:
    moved = moved_psnr(predicted, truth, keyframe)
    moved_mean = float(np.nanmean(moved)) if np.any(np.isfinite(moved)) else float("nan")
    return FrameQuality(float(psnr(predicted, truth).mean()), float(ssim(predicted, truth).mean()), moved_mean)
