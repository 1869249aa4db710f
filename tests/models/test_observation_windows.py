"""History before the anchor: what is given stays given, what is masked is not there, and the anchor is the present."""

import jax
import numpy as np
import pytest

from wallwm_jax.core.types import EventBatch

HISTORY = 2
ROWS = [[0], [1], []]


@pytest.fixture(scope="module")
def windows(helpers):
    """A window with two history latents, an anchor and two future latents; and an event beside it."""
    draw = helpers.Sample.draw
    return [draw(11, 5, 4, text=4, history=HISTORY), draw(12, 3, 3, text=3)]


@pytest.fixture(scope="module")
def inputs(windows, helpers):
    return helpers.lay_out(windows, ROWS, 7)


def outputs(micro, batch, noises):
    """Video and actions of the window's row, and its log steps."""
    video, action, steps = micro.joint(micro.params, batch, noises)
    return np.asarray(video)[0], np.asarray(action)[0, :, :4], np.asarray(steps)[0, 0]


def test_given_slots_are_not_denoised(micro, inputs):
    """Other noise in the history and anchor slots changes no bit of what is generated; in a future slot it does."""
    batch, noises = inputs
    before = outputs(micro, batch, noises)
    for slots, same in ((slice(0, HISTORY + 1), True), (slice(HISTORY + 1, None), False)):
        noisy = noises["noisy_video"].copy()
        noisy[0, slots] += 3.0
        after = outputs(micro, batch, noises | {"noisy_video": noisy})
        assert np.array_equal(before[0][HISTORY + 1 :], after[0][HISTORY + 1 :]) == same
        assert np.array_equal(before[1], after[1]) == same


def masked(batch: EventBatch, slots: slice) -> EventBatch:
    """The batch with some of the window's slots missing."""
    changed = {}
    for name in ("frame_segment_ids", "frame_positions", "frame_mask", "observed_mask", "view_mask"):
        changed[name] = getattr(batch, name).copy()
        changed[name][0, slots] = 0
    return batch._replace(**changed)


def test_masked_history_changes_nothing(micro, inputs):
    """Garbage in missing history slots leaves every output bit-equal; history that is there is read."""
    batch, noises = inputs
    rng = np.random.default_rng(3)
    frames, times = batch.frames.copy(), batch.frame_times.copy()
    frames[0, 0], times[0, 0] = rng.integers(0, 256, frames[0, 0].shape), 1e3
    other = batch._replace(frames=frames, frame_times=times)
    missing = slice(0, 1)
    one = outputs(micro, masked(batch, missing), noises)
    two = outputs(micro, masked(other, missing), noises)
    jax.tree.map(np.testing.assert_array_equal, (one[0][1:], *one[1:]), (two[0][1:], *two[1:]))
    there = outputs(micro, batch, noises)
    assert np.abs(there[0][HISTORY + 1 :] - one[0][HISTORY + 1 :]).max() > 1e-4
    assert np.abs(there[1] - one[1]).max() > 1e-5


def test_an_untrained_model_repeats_the_anchor(micro, inputs):
    """Heads of zeros predict the anchor's latent in the future slots, not the oldest one's."""
    batch, noises = inputs
    latents = np.asarray(micro.apply(micro.fresh, batch.frames, method="encode_frames"))[0]
    velocity = np.asarray(micro.joint(micro.fresh, batch, noises)[0])[0]
    clean = noises["noisy_video"][0] - noises["video_time"][0, 0] * velocity
    np.testing.assert_allclose(clean[HISTORY + 1 :], np.stack([latents[HISTORY]] * 2), atol=1e-4)


def test_the_reader_sees_the_present(micro, inputs):
    """What the caption finds depends on the anchor's last raw frame and on no other frame of the window."""
    batch, _ = inputs
    text = micro.text(micro.params, batch)

    def found(frames):
        changed = batch._replace(frames=frames)
        return np.asarray(micro.apply(micro.params, changed, **text, method="read_keyframes")[0])[0, 0]

    past, present = batch.frames.copy(), batch.frames.copy()
    past[0], past[0, HISTORY, -1] = 255 - past[0], batch.frames[0, HISTORY, -1]
    present[0, HISTORY, -1] = 255 - present[0, HISTORY, -1]
    np.testing.assert_array_equal(found(batch.frames), found(past))
    assert np.abs(found(batch.frames) - found(present)).max() > 1e-4


def test_windows_and_events_share_rows(micro, helpers):
    """A row holds either kind: window and event packed into one row are what they are apart (1e-5 of fp32 sums in
    another order)."""
    short = [helpers.Sample.draw(13, 3, 2, text=4, history=1), helpers.Sample.draw(14, 2, 2, text=3)]
    found = []
    for seed, rows in enumerate(([[0, 1], [], []], [[0], [1], []])):
        found.append(helpers.of_events(short, rows, micro.joint(micro.params, *helpers.lay_out(short, rows, seed))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)
