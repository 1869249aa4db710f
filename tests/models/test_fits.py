"""What a size cannot take is refused by name, from shapes alone; what it can take is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.errors import InputError
from wallwm_jax.models import fits
from wallwm_jax.models.initialise import abstract_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction

MICRO = variant("micro")


def batch_of(pixels, cells, views=2):
    """A batch of pictures of `pixels` whose border mask has `cells`."""
    batch = random_batch(0)
    rows, slots = batch.frame_mask.shape
    return batch._replace(
        frames=np.zeros((rows, slots, 4, views, *pixels, 3), np.uint8),
        view_mask=np.ones((rows, slots, views), bool),
        border_mask=np.ones((rows, slots, views, *cells), bool),
    )


@pytest.mark.parametrize(
    ("pixels", "cells", "views", "message"),
    [
        ((96, 96), (12, 12), 2, "pictures: found 96 x 96 pixels, expected 48 x 48: 12 x 12 cells of 4 pixels"),
        ((20, 16), (5, 4), 2, "latent cells: found 5 x 4, expected multiples of the model's patch of 2 x 2 cells"),
        ((16, 16), (4, 4), 3, "views of the batch: found 3, expected at most 2"),
    ],
)
def test_pictures_that_do_not_fit_are_one_line(pixels, cells, views, message):
    """A size made for other pictures, cells that the patch does not divide, more cameras than the view table."""
    batch = batch_of(pixels, cells, views)
    with pytest.raises(InputError, match=message):
        fits.check_batch(MICRO, 2, batch, cells)
    with pytest.raises(InputError):
        abstract_parameters(WorldAction(MICRO, views=2), batch)


def test_latents_and_border_mask_have_the_same_cells():
    """A batch built for a codec of another compression."""
    with pytest.raises(InputError, match=r"data\.spatial_compression: found 2 x 2 cells .* expected 4 x 4"):
        fits.check_batch(MICRO, 2, batch_of((16, 16), (2, 2)), (4, 4))


@pytest.mark.parametrize("pixels", [(16, 16), (16, 24), (192, 224)])
def test_pictures_that_the_patch_divides_fit(pixels):
    """Square or not, of the native size or not; the parameters' shapes are those of the native size."""
    batch = batch_of(pixels, tuple(side // 4 for side in pixels))
    model = WorldAction(MICRO, views=2)
    native, _ = abstract_parameters(model, random_batch(0))
    shapes, _ = abstract_parameters(model, batch)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, native)


def test_windows_have_rows_of_the_time_table():
    """Micro has rows for 8 latent frames besides the anchor: history and future share them."""
    fits.check_window(MICRO, 8)
    fits.check_window(MICRO, future=3, history=5)
    for future, history in ((9, 0), (4, 5)):
        with pytest.raises(InputError, match="window: found 10 latent frames, expected at most 9"):
            fits.check_window(MICRO, future, history)


def test_a_row_of_one_event_is_no_longer_than_the_time_table():
    """Ten slots of one event are refused; ten slots that several events share are not."""
    batch = batch_of((16, 16), (4, 4))
    longer = {name: np.zeros((2, 10, *getattr(batch, name).shape[2:]), bool) for name in ("frame_mask", "view_mask")}
    longer["border_mask"] = np.ones((2, 10, 2, 4, 4), bool)
    fits.check_batch(MICRO, 2, batch._replace(**longer), (4, 4))
    one = batch._replace(**longer, segment_mask=np.ones((2, 1), bool))
    with pytest.raises(InputError, match="window: found 10 latent frames"):
        fits.check_batch(MICRO, 2, one, (4, 4))


def test_a_patch_that_does_not_divide_the_native_cells_is_refused():
    """In the size itself."""
    with pytest.raises(InputError, match=r"variant\.cells: found 4, expected a multiple of the patch, 3"):
        variant("micro", {"patch": 3})
