"""Which event is drawn: arithmetic on (seed, i), balanced over both clusterings at once.

A counter-based generator (Philox) gives draw i from counter i, so that no state is kept: to resume, to shard or to add
workers is to ask for other numbers.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_WORDS_PER_DRAW = 4  # one Philox block, so that draw i is block i whatever is drawn together


class Draw(NamedTuple):
    """An event row, and a uniform number in [0, 1) that places the anchor inside the event."""

    row: int
    jitter: float


class EventSampler:
    """Draws rows with given probabilities."""

    def __init__(self, rows: Int[np.ndarray, "N"], weights: Float[np.ndarray, "N"], seed: int):
        self.rows, self.seed = np.asarray(rows), seed
        self.probabilities = weights / weights.sum()
        self._upper = np.cumsum(self.probabilities)
        self._upper[-1] = 1.0

    def draws(self, first: int, count: int) -> list[Draw]:
        """Draws first .. first + count - 1; the same numbers however they are asked for."""
        words = np.random.Philox(key=self.seed, counter=first).random_raw(_WORDS_PER_DRAW * count)
        uniform = (words.reshape(count, _WORDS_PER_DRAW)[:, :2] >> np.uint64(11)) * 2.0**-53
        chosen = self.rows[np.searchsorted(self._upper, uniform[:, 0], side="right")]
        return [Draw(int(row), float(jitter)) for row, jitter in zip(chosen, uniform[:, 1], strict=True)]

    def draw(self, i: int) -> Draw:
        return self.draws(i, 1)[0]


def balanced_weights(
    vision_language: Int[np.ndarray, "N"], action: Int[np.ndarray, "N"], iterations: int = 500
) -> Float[np.ndarray, "N"]:
    """Probabilities of events under which every cluster of both clusterings is equally likely.

    Iterative proportional fitting: divide by one clustering's marginal, then by the other's. It converges to weights
    of the form x[vision-language] y[action] wherever both marginals can be flat. Where they cannot (two clusters of one
    clustering that only meet one of the other), the two half steps stay apart and their mean, a compromise between the
    clusterings, is returned. `cluster_marginals` tells how flat the result is.
    """
    weights = np.full(len(action), 1.0 / len(action))
    previous = weights
    for _ in range(iterations):
        for labels in (vision_language, action):
            previous = weights
            _, labels = np.unique(labels, return_inverse=True)
            mass = np.bincount(labels, weights)
            weights = weights / (mass[labels] * len(mass))
    return (weights + previous) / 2


def cluster_marginals(labels: Int[np.ndarray, "N"], probabilities: Float[np.ndarray, "N"]) -> Float[np.ndarray, "k"]:
    """Probability of each cluster, clusters that have no event left out."""
    _, labels = np.unique(labels, return_inverse=True)
    return np.bincount(labels, probabilities)
