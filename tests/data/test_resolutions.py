"""Several picture sizes in one run: chosen by (seed, step) alone, and pixels, cameras and borders stay in step."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data.pipeline import EventLoader, make_loader
from wallwm_jax.data.resolutions import resize, resolution_of, scaled_intrinsics, visible_cells
from wallwm_jax.data.settings import LoaderSettings

SETTINGS = LoaderSettings(rows=2, text_length=24, spatial_compression=4)
SIZES = ((16, 24), (32, 16))


def assert_same(one: EventBatch, other: EventBatch) -> None:
    for name, a, b in zip(EventBatch._fields, one, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@given(step=st.integers(0, 2**31), seed=st.integers(0, 2**31))
def test_the_size_is_a_function_of_seed_and_step(step, seed):
    """Asked twice it is the same; without sizes it is the recording's."""
    assert resolution_of(step, seed, SIZES, (9, 9)) == resolution_of(step, seed, SIZES, (9, 9)) in SIZES
    assert resolution_of(step, seed, (), (9, 9)) == (9, 9)


def test_every_size_comes_equally_often():
    """1000 steps of three sizes: a third each, within four standard deviations (60); seeds differ."""
    sizes = (*SIZES, (8, 8))
    drawn = [[resolution_of(step, seed, sizes, (9, 9)) for step in range(1000)] for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    for size in sizes:
        assert abs(drawn[0].count(size) - 1000 / 3) < 60


def test_batches_of_all_sizes_show_the_same_events(curated):
    """A loader with sizes draws what one without draws; frames, cells and intrinsics have the size of the step, every
    process's share of a batch has the same size, and a loader that starts later goes on with the same batches."""
    several = dataclasses.replace(SETTINGS, resolutions=SIZES)
    plain, sized = EventLoader(curated, SETTINGS, seed=3), EventLoader(curated, several, seed=3)
    share = EventLoader(curated, several, seed=3, process_index=1, process_count=2)
    native, seen = curated.image_shape, set()
    pixels = {"frames", "border_mask", "intrinsics"}
    for step in range(6):
        one, other = plain[step], sized[step]
        size = other.frames.shape[4:6]
        seen.add(size)
        assert size == resolution_of(step, 3, SIZES, native) == share[step].frames.shape[4:6]
        assert other.border_mask.shape[-2:] == (size[0] // 4, size[1] // 4)
        for field in set(EventBatch._fields) - pixels:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
        real = one.frame_mask
        flat = one.frames[real].reshape(-1, *one.frames.shape[3:])
        np.testing.assert_array_equal(other.frames[real].reshape(-1, *other.frames.shape[3:]), resize(flat, size))
        known = real[..., None] & one.camera_mask
        scaled = scaled_intrinsics(one.intrinsics[known], native, size)
        np.testing.assert_allclose(other.intrinsics[known], scaled, rtol=1e-6)
    assert seen == set(SIZES)
    later = list(make_loader(curated, several, seed=3, start_step=4, num_steps=2))
    assert_same(later[0], sized[4])
    assert_same(later[1], sized[5])


def test_the_native_size_is_left_as_it_is(curated):
    """Listed among the sizes or not, frames of the recording's size are the recording's to the bit."""
    listed = dataclasses.replace(SETTINGS, resolutions=(curated.image_shape,))
    assert_same(EventLoader(curated, listed, seed=0)[0], EventLoader(curated, SETTINGS, seed=0)[0])


def test_a_point_moves_with_the_picture():
    """What a camera sees at column u of W, it sees at u W2 / W of W2: the bright square's centre of mass in the resized
    picture is where the scaled intrinsics project the same ray (half a pixel of the smaller picture)."""
    frame = np.zeros((1, 1, 32, 48, 3), np.uint8)
    frame[:, :, 20:24, 9:15] = 240
    camera = np.array([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]])
    ray = np.linalg.solve(camera, [12.0, 22.0, 1.0])
    for size in ((16, 24), (64, 48), (24, 96)):
        small = resize(frame, size)[0, 0, ..., 0].astype(float)
        rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
        centre = (small.sum(0) @ columns / small.sum(), small.sum(1) @ rows / small.sum())
        np.testing.assert_allclose(centre, (scaled_intrinsics(camera, (32, 48), size) @ ray)[:2], atol=0.5)


@given(old=st.integers(2, 40), new=st.integers(1, 60), level=st.integers(0, 255))
def test_an_even_picture_stays_even(old, new, level):
    """For any sizes, larger or smaller: no darker edges, no ringing."""
    found = resize(np.full((1, 1, old, 3, 3), level, np.uint8), (new, 3))
    assert found.shape == (1, 1, new, 3, 3) and (found == level).all()


def test_fine_stripes_do_not_alias():
    """Stripes of single pixels, reduced to a third, become an even grey (within the filter's ripple, 15 of 255)."""
    stripes = np.tile(np.array([0, 255], np.uint8)[:, None, None], (1, 1, 24, 60, 3)).reshape(1, 1, 48, 60, 3)
    found = resize(stripes, (16, 60)).astype(int)
    assert np.abs(found[:, :, 1:-1] - 127).max() <= 15


def test_black_borders_scale_with_the_picture():
    """A cell counts if it lies wholly inside what the scaled borders leave."""
    borders, expected = np.array([[8, 0, 4, 0]]), {(32, 48): (2, 1), (16, 24): (1, 1), (64, 96): (4, 2)}
    for size, (rows, columns) in expected.items():
        visible = visible_cells(borders, (32, 48), size, 4)[0]
        assert visible.shape == (size[0] // 4, size[1] // 4)
        assert not visible[:rows].any() and not visible[:, :columns].any() and visible[rows:, columns:].all()


@pytest.mark.parametrize("sizes", [((16, 18),), ((16, 24), (0, 24)), ((16,),)])
def test_sizes_that_the_codec_does_not_divide_are_refused(sizes):
    """At start-up, by their place in the list; sizes that were saved with a run as lists are the same sizes."""
    assert LoaderSettings(resolutions=[[16, 24]]).resolutions == ((16, 24),)
    place = len(sizes) - 1
    with pytest.raises(InputError, match=rf"data.resolutions\[{place}\]: found .*multiples of 4"):
        dataclasses.replace(SETTINGS, resolutions=sizes)
