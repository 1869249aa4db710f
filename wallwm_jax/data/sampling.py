"""Which event or observation is drawn: arithmetic on (seed, i), balanced over both clusterings at once.

A counter-based generator (Philox) gives draw i from counter i, so that no state is kept: to resume, to shard or to add
workers is to ask for other numbers.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_WORDS_PER_DRAW = 4  # one Philox block, so that draw i is block i whatever is drawn together


class Draw(NamedTuple):
    """What one draw says. `row` is one of the event index, or of the window index if `observation`."""

    row: int
    jitter: float
    """Uniform in [0, 1): places the anchor."""
    observation: bool = False
    level: float = 0.0
    """Uniform in [0, 1): chooses the caption level of an observation-centred window."""


class Weighted:
    """Rows that are drawn with given probabilities."""

    def __init__(self, rows: Int[np.ndarray, "N"], weights: Float[np.ndarray, "N"]):
        self.rows, self.probabilities = np.asarray(rows), weights / weights.sum()
        self._upper = np.cumsum(self.probabilities)
        self._upper[-1] = 1.0

    def choose(self, uniform: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The row at each number in [0, 1)."""
        return self.rows[np.searchsorted(self._upper, uniform, side="right")]


class EventSampler:
    """Draws event rows with given probabilities, and with probability `share` a row of `observations` instead.

    A draw that stays an event is the draw of a sampler without observations.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, "N"],
        weights: Float[np.ndarray, "N"],
        seed: int,
        observations: Weighted | None = None,
        share: float = 0.0,
    ):
        self._events, self.observations = Weighted(rows, weights), observations
        self.rows, self.probabilities = self._events.rows, self._events.probabilities
        self.seed, self._share = seed, share if observations is not None else 0.0

    def draws(self, first: int, count: int) -> list[Draw]:
        """Draws first .. first + count - 1; the same numbers however they are asked for."""
        words = np.random.Philox(key=self.seed, counter=first).random_raw(_WORDS_PER_DRAW * count)
        uniform = (words.reshape(count, _WORDS_PER_DRAW) >> np.uint64(11)) * 2.0**-53
        observed = uniform[:, 2] < self._share
        chosen = self._events.choose(uniform[:, 0])
        if self.observations is not None:
            chosen = np.where(observed, self.observations.choose(uniform[:, 0]), chosen)
        columns = (chosen, uniform[:, 1], observed, uniform[:, 3])
        return [Draw(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]

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
