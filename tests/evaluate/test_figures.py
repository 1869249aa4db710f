"""Pictures that can be read back."""

import io

import numpy as np
from PIL import Image

from wallwm_jax.evaluate import figures


def test_strip_is_truth_over_dream_in_time_order():
    """Flat grey frames come back at their places, with white gaps of two pixels."""
    truth = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (40, 80, 120)])
    image = np.asarray(Image.open(io.BytesIO(figures.strip([truth, truth + 100]))))
    assert image.shape == (34, 52, 3)
    for column, value in enumerate((40, 80, 120)):
        centre = 8 + 18 * column
        np.testing.assert_allclose(image[8, centre], value, atol=3)  # JPEG at quality 88
        np.testing.assert_allclose(image[26, centre], value + 100, atol=3)
    assert image[8, 16].min() > 200


def test_motion_has_every_frame_and_rests_on_the_last():
    """One animation frame a video frame, at the video's pace, then a rest of 1.2 s."""
    frames = np.stack([np.full((2, 16, 16, 3), 20 * time, np.uint8) for time in range(5)])
    animation = Image.open(io.BytesIO(figures.motion(frames, frames, 0.1)))
    durations = []
    for number in range(animation.n_frames):
        animation.seek(number)
        animation.load()
        durations.append(animation.info["duration"])
    assert animation.size == (34, 34) and durations == [100] * 4 + [1200]
