"""The painter: untrained it changes nothing; it learns to cut out what moved and to put it where it moved to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wallwm_jax.nn.guidance.painter import Painter
from wallwm_jax.nn.parameters import unbox

VIEWS, SIDE, CHANNELS = 2, 6, 3
PAINTER = Painter({"view": VIEWS})


def _draw(generator, count=8):
    """A dark spot on a bright table, (anchor, moved picture, map, truth): the spot is where the map's bump is."""
    anchor, truth = np.ones((2, 1, count, VIEWS, SIDE, SIDE, CHANNELS), np.float32)
    moved, maps = np.ones((1, count, VIEWS, SIDE, SIDE, 1, CHANNELS), "f"), np.zeros((1, count, VIEWS, SIDE, SIDE, 1))
    for slot in range(count):
        for view in range(VIEWS):
            before, after = generator.integers(0, SIDE, (2, 2))
            colour = generator.uniform(-1, 0, CHANNELS)
            anchor[0, slot, view, *before] = moved[0, slot, view, *after, 0] = truth[0, slot, view, *after] = colour
            maps[0, slot, view, *after] = 1.0
    return tuple(jnp.asarray(part, jnp.float32) for part in (anchor, moved, maps, truth))


def test_untrained_it_paints_the_current_picture():
    """Exactly, for whatever moved."""
    *given, _ = _draw(np.random.default_rng(0))
    params = unbox(PAINTER.init(jax.random.key(0), *given)["params"])
    np.testing.assert_array_equal(PAINTER.apply({"params": params}, *given), given[0])


def test_it_learns_to_move_things():
    """After 300 small batches a spot of a colour never seen stands where it went, and the table where it was: a tenth
    of the squared error of leaving the picture as it is."""
    generator, optimizer = np.random.default_rng(1), optax.adam(5e-3)
    *given, _ = _draw(generator)
    params = unbox(PAINTER.init(jax.random.key(0), *given)["params"])

    def error(params, anchor, moved, maps, truth):
        return jnp.mean(jnp.square(PAINTER.apply({"params": params}, anchor, moved, maps) - truth))

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(jax.grad(error)(params, *batch), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(300):
        params, state = step(params, state, _draw(generator))
    unseen = _draw(np.random.default_rng(2), 32)
    assert error(params, *unseen) < 0.1 * jnp.mean(jnp.square(unseen[0] - unseen[3]))
