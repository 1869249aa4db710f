"""Drawing events is arithmetic on (seed, i), and balances both clusterings."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.data.sampling import EventSampler, balanced_weights, cluster_marginals


def overlapping_labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated clusterings of very uneven sizes in which every pair of clusters occurs."""
    generator = np.random.default_rng(seed)
    first = np.minimum(generator.geometric(0.4, size=count) - 1, 5)
    second = np.where(generator.random(count) < 0.6, first % 4, generator.integers(0, 4, count))
    first[:24], second[:24] = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    return first, second


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63), first=st.integers(0, 2**40), count=st.integers(1, 40), skip=st.integers(0, 39))
def test_draw_i_does_not_depend_on_how_it_is_asked_for(seed, first, count, skip):
    """A range of draws is the single draws, from whatever number it starts; jitter lies in [0, 1)."""
    sampler = EventSampler(np.arange(100, 200), np.linspace(1, 2, 100), seed)
    together = sampler.draws(first, count)
    skip = min(skip, count - 1)
    assert sampler.draws(first + skip, count - skip) == together[skip:]
    assert sampler.draw(first + skip) == together[skip]
    assert all(100 <= draw.row < 200 and 0 <= draw.jitter < 1 for draw in together)


def test_seeds_are_independent():
    """Other seeds draw other events."""
    samplers = [EventSampler(np.arange(1000), np.ones(1000), seed) for seed in (0, 1)]
    rows = [np.array([draw.row for draw in sampler.draws(0, 200)]) for sampler in samplers]
    assert (rows[0] == rows[1]).mean() < 0.05


def test_weights_flatten_both_clusterings_at_once():
    """Exactly flat marginals wherever they exist; uneven before."""
    first, second = overlapping_labels(400, 0)
    weights = balanced_weights(first, second, most=20.0)
    even = np.full(400, 1 / 400)
    for labels, clusters in ((first, 6), (second, 4)):
        assert np.abs(cluster_marginals(labels, even) * clusters - 1).max() > 0.3
        np.testing.assert_allclose(cluster_marginals(labels, weights), 1 / clusters, rtol=1e-6)


@settings(max_examples=25)
@given(first=st.lists(st.integers(0, 4), min_size=2, max_size=60), data=st.data())
def test_weights_stay_bounded_for_any_clusterings(first, data):
    """Also where no weights are flat, they are probabilities, and no two events' differ by more than the bounds do."""
    second = data.draw(st.lists(st.integers(0, 4), min_size=len(first), max_size=len(first)))
    weights = balanced_weights(np.array(first), np.array(second), least=0.5, most=2.0, iterations=50)
    assert abs(weights.sum() - 1) < 1e-9
    assert weights.max() <= 4 * weights.min() * (1 + 1e-9)


def test_impossible_balance_is_shared_between_the_clusterings():
    """Two clusters that meet only one of the other clustering: 2/3 by one wish, 1/2 by the other. The result lies
    between, and treats the two alike."""
    first, second = np.array([0] * 8 + [1] * 2 + [2] * 5), np.array([0] * 10 + [1] * 5)
    weights = balanced_weights(first, second)
    merged = cluster_marginals(second, weights)[0]
    assert 1 / 2 < merged < 2 / 3
    pair = cluster_marginals(first, weights)
    np.testing.assert_allclose(pair[0], pair[1], atol=1e-9)


def test_drawn_marginals_are_flat_to_sampling_noise():
    """Chi-square of 40,000 draws against flat stays below its 99.99 % quantile in both clusterings (25.7 for five
    degrees of freedom, 21.1 for three), and unbalanced draws exceed it a hundredfold."""
    first, second = overlapping_labels(400, 1)
    count = 40_000
    for weights, flat in ((balanced_weights(first, second, most=20.0), True), (np.ones(400), False)):
        rows = np.array([draw.row for draw in EventSampler(np.arange(400), weights, seed=7).draws(0, count)])
        for labels, clusters, bound in ((first, 6, 25.7), (second, 4, 21.1)):
            found, expected = np.bincount(labels[rows], minlength=clusters), count / clusters
            statistic = ((found - expected) ** 2 / expected).sum()
            assert (statistic < bound) if flat else (statistic > 100 * bound)
