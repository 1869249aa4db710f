"""Named streams depend on their names alone."""

import jax
import numpy as np

from wallwm_jax.core import rng


def test_streams_are_named_and_reproducible():
    """Equal names give equal keys; another name, step or seed gives another."""
    keys = [rng.stream(0, "noise", 3), rng.stream(0, "noise", 4), rng.stream(0, "time", 3), rng.stream(1, "noise", 3)]
    data = [tuple(np.asarray(jax.random.key_data(key))) for key in keys]
    assert len(set(data)) == 4
    assert tuple(np.asarray(jax.random.key_data(rng.stream(0, "noise", 3)))) == data[0]


def test_a_traced_step_is_the_same_stream():
    """Inside jit the step is traced; the stream must not change."""
    traced = jax.jit(lambda step: jax.random.key_data(rng.substream(jax.random.key(0), "noise", step)))(5)
    assert np.array_equal(traced, jax.random.key_data(rng.stream(0, "noise", 5)))
