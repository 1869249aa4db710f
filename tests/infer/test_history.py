"""The ring of observations: it gives the raw frames of the training windows, and masks what was never seen."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Observation
from wallwm_jax.data.windows import observed_offsets
from wallwm_jax.infer.history import History


def seen(number, views=(True, True), size=2):
    """An observation whose pixels tell its number."""
    state = np.full(26, number, np.float32)
    return Observation(np.full((2, size, size, 3), number % 256, np.uint8), np.array(views), state, np.ones(26, bool))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(latents=st.integers(0, 3), stride=st.integers(1, 3), count=st.integers(1, 60))
def test_the_ring_reads_what_a_list_would(latents, stride, count):
    """Slots by the definition of eq. 11, from the list of all observations: the first raw frame stands alone in slot 0,
    the last one in the anchor is the current one, slots before the first observation are masked and untouched."""
    history = History(latents, stride)
    for number in range(count):
        history.push(seen(number))
    frames = np.full((latents + 1, 4, 2, 2, 2, 3), 255, np.uint8)
    real, views = history.write(frames)
    for slot in range(latents + 1):
        sampled = [0] * 4 if slot == 0 else [4 * (slot - 1) + r + 1 for r in range(4)]
        wanted = [count - 1 + stride * (n - 4 * latents) for n in sampled]
        assert real[slot] == (wanted[-1] >= 0) and views[slot].all() == real[slot]
        expected = [max(number, 0) if real[slot] else 255 for number in wanted]
        assert frames[slot, :, 0, 0, 0, 0].tolist() == expected and np.ptp(frames[slot], axis=(1, 2, 3, 4)).max() == 0
    assert real[-1] and frames[-1, -1, 0, 0, 0, 0] == count - 1 and history.state[0] == count - 1
    assert len(history) == min(count, 1 + 4 * latents * stride)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(latents=st.integers(0, 2), stride=st.integers(1, 3), gaps=st.lists(st.integers(1, 30), max_size=30))
def test_a_slot_with_an_unobserved_step_is_masked(latents, stride, gaps):
    """Whatever the gaps: a slot is real if all its steps were observed, and then shows them."""
    history = History(latents, stride)
    steps = np.cumsum([0, *gaps]).tolist()
    for step, gap in zip(steps, [5, *gaps], strict=True):
        history.push(seen(step), gap)
    frames = np.zeros((latents + 1, 4, 2, 2, 2, 3), np.uint8)
    real, _ = history.write(frames)
    for slot, offsets in enumerate(observed_offsets(latents, stride)):
        wanted = [max(steps[-1] + offset, 0) for offset in offsets]
        there = steps[-1] + offsets[-1] >= 0 and all(step in steps for step in wanted)
        assert real[slot] == there and (not there or frames[slot, :, 0, 0, 0, 0].tolist() == [w % 256 for w in wanted])
    assert len(history) == sum(step > steps[-1] - 1 - 4 * latents * stride for step in steps)


def test_the_present_observation_can_be_replaced():
    """Asked again with another picture: the ring is as if that one alone had been pushed; the size must stay."""
    history, expected = History(1, 1), History(1, 1)
    for number in range(9):
        history.push(seen(number))
        expected.push(seen(50 if number == 8 else number))
    history.replace(seen(50))
    frames = np.zeros((2, 2, 4, 2, 2, 2, 3), np.uint8)
    for ring, found in zip((history, expected), frames, strict=True):
        ring.write(found)
    np.testing.assert_array_equal(*frames)
    assert history.state[0] == 50 and len(history) == len(expected)
    with pytest.raises(InputError, match=r"observation\.views"):
        history.replace(seen(1, size=4))
    with pytest.raises(InputError, match="history: found no observation"):
        History(1, 1).replace(seen(1))


def test_an_observation_every_stride_fills_all_slots():
    """What lies between is never read: the frames are those of a history that saw every step."""
    every, second = History(2, 2), History(2, 2)
    for step in range(41):
        every.push(seen(step))
        if step % 2 == 0:
            second.push(seen(step), 2)
    found = [np.zeros((3, 4, 2, 2, 2, 3), np.uint8) for _ in range(2)]
    masks = [history.write(frames)[0].tolist() for history, frames in zip((every, second), found, strict=True)]
    assert masks == [[True] * 3] * 2 and (found[0] == found[1]).all()


def test_a_view_must_be_there_throughout():
    """A camera that was away in one raw frame of a slot is masked in that slot alone."""
    history = History(1, 1)
    for number in range(5):
        history.push(seen(number, views=(True, number != 3)))
    _, views = history.write(np.zeros((2, 4, 2, 2, 2, 3), np.uint8))
    assert views.tolist() == [[True, True], [True, False]]


def test_the_callers_arrays_may_be_reused():
    """A push keeps nothing of what it was given, and a new episode nothing of the old."""
    history, observation = History(1, 1), seen(7)
    history.push(observation)
    observation.views[...], observation.state[...] = 0, 0
    frames = np.zeros((2, 4, 2, 2, 2, 3), np.uint8)
    real, _ = history.write(frames)
    assert real.tolist() == [False, True] and (frames[1] == 7).all() and (history.state == 7).all()
    history.clear()
    history.push(seen(3, size=2))
    frames = np.zeros_like(frames)
    history.write(frames)
    assert (frames[1] == 3).all() and not frames[0].any()


def test_a_push_costs_the_same_whatever_the_length():
    """A ring a hundred times longer takes a push at most five times as long (measured as the fastest of many: the
    first writes to fresh memory are slower)."""
    observation, fastest = seen(1, size=16), []
    for latents in (1, 100):
        history = History(latents, 1)
        times = []
        for _ in range(1000):
            started = time.perf_counter()
            history.push(observation)
            times.append(time.perf_counter() - started)
        fastest.append(min(times))
    assert fastest[1] < 5 * fastest[0]


def test_bad_input_is_refused():
    """An empty history, other images and impossible lengths name themselves."""
    history = History(1, 2)
    with pytest.raises(InputError, match="history: found no observation"):
        history.write(np.zeros((2, 4, 2, 2, 2, 3), np.uint8))
    history.push(seen(0))
    with pytest.raises(InputError, match=r"observation\.views"):
        history.push(seen(1, size=3))
    with pytest.raises(InputError, match="steps since the observation before: found 0"):
        history.push(seen(1), 0)
    with pytest.raises(InputError, match="stride 0"):
        History(1, 0)
