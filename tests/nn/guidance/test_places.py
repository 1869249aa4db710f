"""Places of patches: a learned table fits any grid, and is itself on the grid that it was learned for."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.nn.guidance.places import place_features, resized

LEARNED = (4, 6)


def test_a_table_is_itself_on_its_own_grid():
    """The same bits."""
    table = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 3)).astype("f"))
    np.testing.assert_array_equal(resized(table, LEARNED, LEARNED), table)


@settings(max_examples=10)
@given(rows=st.integers(5, 9), columns=st.integers(7, 12))
def test_other_grids_have_places_in_between(rows, columns):
    """A finer grid of a table that is linear in the place: the place of the patch's centre, away from the border
    (1e-5: fp32), and no number outside the table's range."""

    def centres(grid):
        axes = [(np.arange(count) + 0.5) / count for count in grid]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 2).astype("f")

    table, found = centres(LEARNED), np.asarray(resized(jnp.asarray(centres(LEARNED)), LEARNED, (rows, columns)))
    true, low, high = centres((rows, columns)), table.min((0, 1)), table.max((0, 1))
    inside = ((true >= low) & (true <= high)).all(-1)
    assert inside.any()
    np.testing.assert_allclose(found[inside], true[inside], atol=1e-5)
    assert (found >= low - 1e-6).all() and (found <= high + 1e-6).all()


def test_features_tell_rows_from_columns():
    """On a wide grid every patch has features of its own, and those of the first row differ in the columns' part."""
    features = np.asarray(place_features((2, 3), 16))
    assert features.shape == (6, 16) and len(np.unique(features.round(5), axis=0)) == 6
