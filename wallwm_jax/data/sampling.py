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
    vision_language: Int[np.ndarray, "N"],
    action: Int[np.ndarray, "N"],
    least: float = 0.2,
    most: float = 5.0,
    iterations: int = 500,
) -> Float[np.ndarray, "N"]:
    """Probabilities of events under which every cluster of both clusterings is equally likely.

    Cyclic projections: make the one marginal flat, make the other flat, average the two, and keep every event between
    `least` and `most` times its even share 1 / N. Both marginals come out flat wherever they can within these bounds.
    Often they cannot: a cluster of captions may lie wholly inside one cluster of motions. Then the average is the
    compromise between the clusterings, and the bounds keep any event from vanishing or from being seen all the
    time. `cluster_marginals` tells how flat the result is.
    """
    count = len(action)
    sides = [np.unique(labels, return_inverse=True)[1] for labels in (vision_language, action)]
    weights = np.full(count, 1.0 / count)
    for _ in range(iterations):
        flattened = []
        for labels in sides:
            mass = np.bincount(labels, weights)
            weights = weights / (mass[labels] * len(mass))
            flattened.append(weights)
        weights = np.clip((flattened[0] + flattened[1]) / 2, least / count, most / count)
    return weights / weights.sum()


def cluster_marginals(labels: Int[np.ndarray, "N"], probabilities: Float[np.ndarray, "N"]) -> Float[np.ndarray, "k"]:
    """Probability of each cluster, clusters that have no event left out."""
    _, labels = np.unique(labels, return_inverse=True)
    return np.bincount(labels, probabilities)
