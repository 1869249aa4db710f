"""The keyframe reader: what is masked has no influence, captions decide what is looked for, and it learns to find."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wallwm_jax.nn.guidance.keyframe_reader import Asked, KeyframeReader, ReadingEmbedding
from wallwm_jax.nn.parameters import unbox

EVENTS, VIEWS, SIDE, LENGTH = 16, 2, 24, 3
SIZES = {"action_embed": 8, "text_embed": 6, "view": VIEWS, "query": 2}
READER, EMBEDDING = KeyframeReader(SIZES, (8, 16)), ReadingEmbedding("action_embed", SIZES)


def _inputs(seed):
    generator = np.random.default_rng(seed)
    pictures = generator.normal(size=(EVENTS, VIEWS, SIDE, SIDE, 3)).astype("f")
    text = generator.normal(size=(EVENTS, LENGTH, 6)).astype("f")
    return pictures, np.ones((EVENTS, VIEWS), bool), text, np.ones((EVENTS, LENGTH), bool)


@pytest.fixture(scope="module")
def params():
    reading, params = READER.init_with_output(jax.random.key(0), Asked(*map(jnp.asarray, _inputs(0))))
    return unbox({"reader": params["params"], "embedding": EMBEDDING.init(jax.random.key(1), reading)["params"]})


def _read(params, inputs):
    reading = READER.apply({"params": params["reader"]}, Asked(*map(jnp.asarray, inputs)))
    return EMBEDDING.apply({"params": params["embedding"]}, reading)


@pytest.fixture(scope="module")
def read():
    """(tokens, gradients of their squares) of the reader; compiled once."""

    def loss(params, inputs):
        found = _read(params, inputs)
        return jnp.sum(found**2), found

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(params, inputs):
        (_, found), gradients = compiled(params, inputs)
        return found, gradients

    return run


def test_absent_views_and_masked_text_have_no_influence(params, read):
    """Other pixels in an absent view and other features behind the text mask: the same values and gradients."""
    pictures, views, text, shown = _inputs(1)
    views[:, 1], shown[:, 2] = False, False
    other_pictures, other_text = np.copy(pictures), np.copy(text)
    other_pictures[:, 1] += 1.0
    other_text[:, 2] += 1.0
    clean = read(params, (pictures, views, text, shown))
    jax.tree.map(np.testing.assert_array_equal, clean, read(params, (other_pictures, views, other_text, shown)))
    seen = read(params, (other_pictures, np.ones_like(views), other_text, np.ones_like(shown)))
    assert np.abs(seen[0] - clean[0]).max() > 1e-3


def test_captions_decide_what_is_found(params, read):
    """In one and the same picture two captions find different things; without a caption they find the same."""
    pictures, views, text, shown = _inputs(2)
    pictures = np.broadcast_to(pictures[:1], pictures.shape)
    with_caption, _ = read(params, (pictures, views, text, shown))
    without, _ = read(params, (pictures, views, text, np.zeros_like(shown)))
    assert np.abs(with_caption[0] - with_caption[1]).max() > 1e-3
    np.testing.assert_allclose(without, np.broadcast_to(without[:1], without.shape), rtol=1e-5, atol=1e-6)


def test_learns_where_the_named_thing_is(params):
    """Two dots at random places, a caption that names one: training finds the named one's place in pictures never
    seen, to a third of what a guess at the mean errs by."""

    def draw(generator):
        pictures = np.zeros((EVENTS, VIEWS, SIDE, SIDE, 3), np.float32)
        places = generator.integers(2, SIDE - 2, (EVENTS, 2, 2))
        named = generator.integers(0, 2, EVENTS)
        for event in range(EVENTS):
            for colour, (row, column) in enumerate(places[event]):
                pictures[event, :, row - 2 : row + 2, column - 2 : column + 2, colour] = 1.0
        text = np.repeat(np.eye(6, dtype="f")[named][:, None], LENGTH, 1)
        target = places[np.arange(EVENTS), named] / (SIDE / 2) - 1.0
        given = pictures, np.ones((EVENTS, VIEWS), bool), text, np.ones((EVENTS, LENGTH), bool)
        return given, target.astype("f")

    optimizer = optax.adam(1e-2)

    def error(params, given, target):
        return jnp.mean(jnp.abs(_read(params, given)[:, :2] - target))

    @jax.jit
    def step(params, state, given, target):
        gradients = jax.grad(error)(params, given, target)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    generator, state = np.random.default_rng(3), optimizer.init(params)
    for _ in range(300):
        params, state = step(params, state, *draw(generator))
    unseen = [draw(np.random.default_rng(seed)) for seed in range(100, 104)]
    guess = np.mean([np.abs(target).mean() for _, target in unseen])
    assert np.mean([float(jax.jit(error)(params, *pair)) for pair in unseen]) < guess / 3
