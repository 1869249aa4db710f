"""The two clusterings of events in their simplest honest form: k-means on standardised features.

Actions: the event's trajectory, resampled over its own duration, with its length. Vision-language: the words of the
caption beside a coarse picture of the keyframe. Text alone would not do: "open drawer" and "close drawer" differ by one
word in a sentence, and by everything in the scene.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

TRAJECTORY_POINTS = 12
PICTURE_CELLS = 6


def trajectory_features(relative: Sequence[Float[np.ndarray, "_ d"]]) -> Float[np.ndarray, "N c"]:
    """Anchor-relative trajectories at equally spaced fractions of their duration, and the logarithm of their length."""
    features = []
    for trajectory in relative:
        at = np.linspace(0, len(trajectory) - 1, TRAJECTORY_POINTS)
        columns = [np.interp(at, np.arange(len(trajectory)), column) for column in trajectory.T]
        features.append(np.concatenate([*columns, [np.log2(len(trajectory))]]))
    return np.asarray(features)


def picture_features(keyframes: UInt8[np.ndarray, "N V H W 3"]) -> Float[np.ndarray, "N c"]:
    """Mean colours of a coarse grid on every view."""
    count, _, height, width, _ = keyframes.shape
    rows = np.linspace(0, height, PICTURE_CELLS + 1).astype(int)[:-1]
    columns = np.linspace(0, width, PICTURE_CELLS + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(keyframes, rows, axis=2, dtype=np.float32), columns, axis=3)
    return (sums / (height * width / PICTURE_CELLS**2)).reshape(count, -1)


def caption_features(captions: Sequence[str], vocabulary: Sequence[str]) -> Float[np.ndarray, "N c"]:
    """Which words of the vocabulary a caption has."""
    words = [set(caption.lower().split()) for caption in captions]
    return np.asarray([[word in present for word in vocabulary] for present in words], np.float64)


def vocabulary_of(captions: Sequence[str]) -> list[str]:
    """All words of the captions, sorted."""
    return sorted({word for caption in captions for word in caption.lower().split()})


def balanced_block(features: Float[np.ndarray, "N c"], reference: Int[np.ndarray, "M"]) -> Float[np.ndarray, "N c"]:
    """Columns standardised over the reference rows, then scaled to a total variance of 1: blocks weigh the same."""
    mean, deviation = features[reference].mean(0), features[reference].std(0)
    varying = deviation > 1e-9
    scale = np.where(varying, deviation, 1.0) * np.sqrt(max(int(varying.sum()), 1))
    return np.where(varying, (features - mean) / scale, 0.0)


def k_means(
    features: Float[np.ndarray, "N c"], count: int, seed: int, minimum_size: int = 1, iterations: int = 50
) -> Float[np.ndarray, "k c"]:
    """Centroids by k-means++ and Lloyd's iterations, k <= count.

    Clusters of fewer than `minimum_size` rows are dissolved one by one, smallest first: balancing over a cluster of two
    events would show those two a hundred times an epoch.
    """
    generator = np.random.default_rng(seed)
    centroids = _spread_start(features, min(count, len(features)), generator)
    centroids = _lloyd(features, centroids, iterations)
    while len(centroids) > 1:
        sizes = np.bincount(assign(features, centroids), minlength=len(centroids))
        if sizes.min() >= minimum_size:
            break
        centroids = _lloyd(features, np.delete(centroids, sizes.argmin(), axis=0), 5)
    return centroids


def labels(
    blocks: Sequence[Float[np.ndarray, "N _"]],
    train: Int[np.ndarray, "M"],
    count: int,
    smallest_cluster: float,
    seed: int,
) -> Int[np.ndarray, "N"]:
    """The cluster of every row by features in `blocks` of equal weight; centroids come from the rows `train`, and those
    of less than `smallest_cluster` of an even share are dissolved."""
    features = np.concatenate([balanced_block(block, train) for block in blocks], axis=1)
    smallest = max(1, int(smallest_cluster * len(train) / count))
    return assign(features, k_means(features[train], count, seed, smallest))


def assign(features: Float[np.ndarray, "N c"], centroids: Float[np.ndarray, "k c"]) -> Int[np.ndarray, "N"]:
    """Nearest centroid of every row."""
    return _squared_distances(features, centroids).argmin(1)


def _squared_distances(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return (features**2).sum(1)[:, None] - 2 * features @ centroids.T + (centroids**2).sum(1)


def _spread_start(features: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    chosen = [int(generator.integers(len(features)))]
    nearest = ((features - features[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count and nearest.max() > 1e-12:
        chosen.append(int(generator.choice(len(features), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, ((features - features[chosen[-1]]) ** 2).sum(1))
    return features[chosen]


def _lloyd(features: np.ndarray, centroids: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        labels = assign(features, centroids)
        sums = np.zeros_like(centroids)
        np.add.at(sums, labels, features)
        sizes = np.bincount(labels, minlength=len(centroids))
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centroids)
        if np.allclose(moved, centroids, rtol=0, atol=1e-9):
            break
        centroids = moved
    return centroids
