"""Fresh parameters are the same numbers whatever shards they are drawn into, and a shard costs what it holds."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.axes import declare
from wallwm_jax.nn import drawing
from wallwm_jax.nn.parameters import DeclaredParameter, Initializer, ones, zeros

KEY = jax.random.key(0)


def box_of(shape, dtype=jnp.float32, initializer=None):
    value = jax.ShapeDtypeStruct(shape, dtype)
    return DeclaredParameter(value, declare("embed"), initializer or Initializer(0.25, 2.0))


def whole_of(box):
    return drawing.draw(box, KEY, [(slice(None),) * len(box.value.shape)])[0]


@pytest.mark.parametrize(
    "shape, dtype",
    [((), "float32"), ((70_000,), "float32"), ((3, 40, 2500), "float32"), ((2, 300, 3, 200), "bfloat16")],
)
def test_a_part_has_the_numbers_of_the_whole(shape, dtype):
    """Block i of a parameter's numbers is drawn from its key and i; random parts along any axes, of parameters of one
    to six blocks, are slices of that whole, bit for bit; drawn together or alone."""
    box, generator = box_of(shape, jnp.dtype(dtype)), np.random.default_rng(0)
    whole, parts = whole_of(box), []
    for _ in range(6):
        ends = [np.sort(generator.choice(size + 1, 2, replace=False)) for size in shape]
        parts.append(tuple(slice(*map(int, e)) if generator.random() < 0.7 else slice(None) for e in ends))
    blocks = [jax.random.normal(jax.random.fold_in(KEY, i), (drawing.BLOCK,)) for i in range(6)]
    expected = 0.25 + 2.0 * np.concatenate(blocks)[: whole.size].reshape(shape)
    np.testing.assert_array_equal(whole, expected.astype(dtype), strict=True)
    for part, found in zip(parts, drawing.draw(box, KEY, parts), strict=True):
        np.testing.assert_array_equal(found, whole[part])
    np.testing.assert_array_equal(drawing.draw(box, KEY, parts[:1])[0], whole[parts[0]])


def test_constants_need_no_draws(monkeypatch):
    """Zeros and ones come without the generator."""
    monkeypatch.setattr(drawing, "_standard_normal", None)
    for initializer in (zeros, ones):
        (part,) = drawing.draw(box_of((8, 4), initializer=initializer), KEY, [(slice(2, 4), slice(None))])
        np.testing.assert_array_equal(part, np.full((2, 4), initializer.mean))


def test_a_shard_costs_itself_and_a_block(monkeypatch):
    """An eighth of a parameter of 32 blocks, cut along its second axis: of 16 layers, each in two blocks, every second
    block is drawn, and the host never holds more than the shard and four blocks (the block, its scaled copy and the
    places in it) where the parameter has 32."""
    box, drawn = box_of((16, 512, 256)), []
    generate = drawing._standard_normal
    generate(KEY)
    monkeypatch.setattr(drawing, "_standard_normal", lambda key: drawn.append(key) or generate(key))
    part = (slice(None), slice(64, 128), slice(None))
    tracemalloc.start()
    (shard,) = drawing.draw(box, KEY, [part])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 16
    assert peak < shard.nbytes + 4 * 4 * drawing.BLOCK < 16 * 512 * 256 * 4 / 2
