"""The vision-language trunk: causal, blind to padding, exact caches, plain RoPE for text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from wallwm_jax.nn.language import multimodal_rotation
from wallwm_jax.nn.parameters import unbox
from wallwm_jax.nn.vision_language import VisionLanguageSizes, VisionLanguageTrunk

BLOCKS = {"layers": 3, "embed": 16, "heads": 4, "key_heads": 2, "mlp": 24, "head_dim": 8, "sections": (2, 1, 1)}
TRUNK = VisionLanguageTrunk(sizes=VisionLanguageSizes(**BLOCKS, vocabulary=11, patch=5, views=2))
LENGTH = 6


@functools.cache
def inputs():
    """Images of two views of 2 x 3 patches, one of them masked in the second row, and six text tokens."""
    images = jax.random.normal(jax.random.key(0), (2, 2, 2, 3, 5))
    text = jax.random.randint(jax.random.key(1), (2, LENGTH), 0, 11)
    return images, jnp.array([[True, True], [True, False]]), text, jnp.ones((2, LENGTH), bool)


@functools.cache
def parameters():
    return unbox(TRUNK.init(jax.random.key(2), *inputs()))["params"]


def logits(*arguments):
    return TRUNK.apply({"params": parameters()}, *arguments)


def test_a_token_is_predicted_from_what_stands_before_it():
    """By gradient with respect to the embeddings: nothing of a later token reaches an earlier one's features."""
    images, view_mask, text, text_mask = inputs()
    tokens = TRUNK.apply({"params": parameters()}, images, view_mask, text, text_mask, method="embed")

    def of(embeddings):
        features = TRUNK.apply({"params": parameters()}, tokens._replace(embeddings=embeddings), method="features")
        return features.hidden[-1][0].sum(-1)

    influence = np.abs(jax.jacobian(of)(tokens.embeddings)[:, 0]).sum(-1)
    assert np.all(influence[np.triu(np.ones(influence.shape, bool), 1)] == 0)
    assert np.all(influence[np.tril(np.ones(influence.shape, bool))] > 0)


def test_masked_views_and_padding_have_no_influence():
    """A masked view's pixels and padded text may be anything."""
    images, view_mask, text, _ = inputs()
    text_mask = jnp.arange(LENGTH) < jnp.array([[6], [4]])
    real = jnp.broadcast_to(view_mask[..., None, None, None], images.shape)
    one = logits(images, view_mask, text, text_mask)
    other = logits(jnp.where(real, images, 9.0), view_mask, jnp.where(text_mask, text, 3), text_mask)
    np.testing.assert_array_equal(np.where(text_mask[..., None], one, 0), np.where(text_mask[..., None], other, 0))


def test_decoding_with_the_cache_equals_the_whole_pass():
    """Prefill, then one token at a time: features, keys and values of every layer are those of one pass."""
    images, view_mask, text, text_mask = inputs()
    variables = {"params": parameters()}
    whole = TRUNK.apply(variables, *inputs(), method="read")
    head = TRUNK.apply(variables, images, view_mask, text[:, :3], text_mask[:, :3], method="embed")
    features, hidden = TRUNK.apply(variables, head, 3, method="features"), []
    for place in range(3, LENGTH):
        word = TRUNK.apply(variables, text[:, place : place + 1], text_mask[:, :1], method="embed_text")
        features = TRUNK.apply(variables, features, word, 12 + place, method="extend")
        hidden.append(features.hidden)
    np.testing.assert_allclose(jnp.concatenate(hidden, 2), whole.hidden[:, :, -3:], atol=1e-5)
    real = np.asarray(whole.mask)[None, :, :, None, None]
    for one, other in zip(features.memory, whole.memory, strict=True):
        np.testing.assert_allclose(np.where(real, one, 0), np.where(real, other, 0), atol=1e-5)


def test_padded_prompts_decode_like_unpadded_ones():
    """A token after a padded prompt gets the position after the last real token."""
    variables = {"params": parameters()}
    _, _, text, _ = inputs()
    short = TRUNK.apply(variables, None, None, text[:, :4], jnp.ones((2, 4), bool), method="embed")
    mask = jnp.broadcast_to(jnp.arange(LENGTH) < 4, (2, LENGTH))
    padded = TRUNK.apply(variables, None, None, text, mask, method="embed")
    word = TRUNK.apply(variables, text[:, :1], jnp.ones((2, 1), bool), method="embed_text")
    one = TRUNK.apply(variables, TRUNK.apply(variables, short, 1, method="features"), word, 4, method="extend")
    other = TRUNK.apply(variables, TRUNK.apply(variables, padded, 1, method="features"), word, 6, method="extend")
    np.testing.assert_allclose(one.hidden, other.hidden, atol=1e-5)


def test_text_turns_by_plain_rotary_positions():
    """With equal time, row and column the sections do not matter; unequal ones turn their own section alone."""
    places = jnp.repeat(jnp.arange(5)[None, :, None], 3, -1)
    one, other = (multimodal_rotation(places, sections, 1e6).cosine for sections in ((4, 0, 0), (1, 2, 1)))
    np.testing.assert_array_equal(one, other)
    moved = multimodal_rotation(places.at[..., 1].add(3), (1, 2, 1), 1e6).cosine
    changed = np.any(np.asarray(moved != other), axis=(0, 1, 2))
    np.testing.assert_array_equal(changed, [False, True, True, False])
