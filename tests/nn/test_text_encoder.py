"""The text encoder: captions are encoded each for itself, padding is nothing, distance counts by T5's buckets."""

import jax
import numpy as np
import pytest

from wallwm_jax.nn.drawing import materialise
from wallwm_jax.nn.text_encoder import TextEncoder, TextEncoderSizes, relative_buckets

SIZES = TextEncoderSizes(layers=2, embed=16, heads=2, mlp=32, vocabulary=259)


@pytest.fixture(scope="module")
def encode():
    encoder = TextEncoder(sizes=SIZES)
    shapes = jax.ShapeDtypeStruct((2, 2, 7), np.int32), jax.ShapeDtypeStruct((2, 2, 7), bool)
    params = materialise(jax.eval_shape(encoder.init, jax.random.key(0), *shapes)["params"], jax.random.key(0))
    run = jax.jit(lambda text, mask: encoder.apply({"params": params}, text, mask))
    return lambda text, mask: np.asarray(run(text, mask))


def test_padding_is_exactly_nothing(encode):
    """Tokens outside the mask neither come out nor change what does, whatever their ids are."""
    text = np.random.default_rng(0).integers(3, 259, (2, 2, 7)).astype(np.int32)
    mask = np.arange(7) < np.array([[7, 4], [0, 1]])[..., None]
    features, spoilt = encode(text, mask), encode(np.where(mask, text, -5).astype(np.int32), mask)
    np.testing.assert_array_equal(features, spoilt)
    assert np.all(features[~mask] == 0) and np.all(np.abs(features[mask]).sum(-1) > 0)


def test_order_and_content_matter(encode):
    """The same bytes in another order are another caption, at every token; other captions stay as they are."""
    text = np.random.default_rng(0).integers(3, 259, (2, 2, 7)).astype(np.int32)
    mask, other = np.ones(text.shape, bool), text.copy()
    other[0, 0, :2] = other[0, 0, 1::-1]
    one, two = encode(text, mask), encode(other, mask)
    np.testing.assert_allclose(one[1], two[1], atol=1e-6)
    np.testing.assert_allclose(one[0, 1], two[0, 1], atol=1e-6)
    assert np.all(np.abs(one[0, 0] - two[0, 0]).max(-1) > 1e-4)


def test_buckets_are_those_of_t5():
    """Signs have halves of their own, small distances buckets of their own, and beyond 128 all is one."""
    buckets = np.asarray(relative_buckets(300, 32))
    assert buckets[0, 0] == 0 and buckets[5, 0] == 5 and buckets[0, 5] == 16 + 5
    assert buckets[200, 0] == buckets[299, 0] == 15 and buckets[0, 299] == 31
    assert np.all(np.diff(buckets[:, 0]) >= 0)
