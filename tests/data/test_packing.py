"""Packing: masks and ids agree for all lengths, rows never overflow, and a batch shows exactly what was recorded."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.index import EventIndex
from wallwm_jax.data.packing import event_batch, first_fit, make_pool, pack
from wallwm_jax.data.pipeline import make_sampler
from wallwm_jax.data.sampling import Draw, EventSampler
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.data.windows import Window, make_window

SETTINGS = LoaderSettings(rows=3, text_length=24)
GIVEN = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def with_events(curated: CuratedDataset, spans: list[tuple[int, int, int]]) -> CuratedDataset:
    """The same episodes with other events (episode, start, end)."""
    template = curated.index.row(0)
    rows = [
        dataclasses.replace(template, episode=episode, start=start, end=end, length=end - start)
        for episode, start, end in spans
    ]
    return CuratedDataset(
        curated.root,
        EventIndex.from_rows(rows),
        curated.statistics,
        curated.embodiment,
        curated.report,
        curated._numbers,
    )


def longest_episode(curated: CuratedDataset) -> int:
    return max(curated.episodes, key=curated.length)


@GIVEN
@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=12),
    stride=st.integers(1, 3),
    jitter=st.floats(0, 1),
    data=st.data(),
)
def test_masks_and_ids_are_consistent(curated, lengths, stride, jitter, data):
    """For any event lengths: slot and action counts follow from the length, segments are contiguous and ordered, and
    every array is empty exactly where its mask says so."""
    episode = longest_episode(curated)
    total = curated.length(episode)
    starts = [data.draw(st.integers(0, total - length)) for length in lengths]
    view = with_events(curated, [(episode, s, s + n) for s, n in zip(starts, lengths, strict=True)])
    loader = dataclasses.replace(SETTINGS, frame_stride=stride, anchor_jitter=jitter)
    windows = [make_window(view, Draw(row, 0.99), loader) for row in range(len(lengths))]
    rows, _ = first_fit(windows, loader.rows, loader.row_frames, loader.segments)
    batch = pack(view, rows, loader)
    steps_per_latent = 4 * stride
    for b, row in enumerate(rows):
        assert len(row) == batch.segment_mask[b].sum() <= loader.segments
        frame_ids, action_ids = [], []
        for s, window in enumerate(row):
            future = min(-(-window.steps // steps_per_latent), loader.max_latent_frames - 1)
            used = min(window.steps, future * steps_per_latent)
            frame_ids += [s + 1] * (1 + future)
            action_ids += [s + 1] * used
            own = batch.frame_segment_ids[b] == s + 1
            np.testing.assert_array_equal(batch.frame_positions[b][own], np.arange(1 + future))
            own_actions = batch.action_segment_ids[b] == s + 1
            np.testing.assert_array_equal(batch.action_positions[b][own_actions], np.arange(used))
            last_time = batch.frame_times[b][own][-1]
            assert batch.action_times[b][own_actions][-1] <= last_time + 1e-6
            assert batch.truncated[b, s] == (window.steps > future * steps_per_latent)
            assert batch.event_steps[b, s] == window.steps and batch.event_rows[b, s] == window.row
            assert (
                window.steps >= min(4, lengths[window.row]) and window.end == starts[window.row] + lengths[window.row]
            )
        np.testing.assert_array_equal(
            batch.frame_segment_ids[b], frame_ids + [0] * (loader.row_frames - len(frame_ids))
        )
        np.testing.assert_array_equal(
            batch.action_segment_ids[b], action_ids + [0] * (loader.row_actions - len(action_ids))
        )
    check_padding(batch)


def check_padding(batch):
    """Masks repeat what the ids say, and padded slots hold nothing."""
    np.testing.assert_array_equal(batch.frame_mask, batch.frame_segment_ids > 0)
    np.testing.assert_array_equal(batch.action_mask, batch.action_segment_ids > 0)
    np.testing.assert_array_equal(batch.view_mask.any(-1), batch.frame_mask)
    np.testing.assert_array_equal(batch.camera_mask.any(-1), batch.frame_mask)
    np.testing.assert_array_equal(batch.border_mask.any((-3, -2, -1)), batch.frame_mask)
    np.testing.assert_array_equal(batch.dof_mask.any(-1), batch.segment_mask)
    np.testing.assert_array_equal(batch.text_mask.any(-1), batch.segment_mask)
    np.testing.assert_array_equal(batch.event_rows >= 0, batch.segment_mask)
    for array in (batch.frames, batch.frame_positions, batch.frame_times):
        assert not array[~batch.frame_mask].any()
    for array in (batch.actions, batch.action_positions, batch.action_times):
        assert not array[~batch.action_mask].any()
    for array in (batch.state, batch.text, batch.event_steps, batch.truncated):
        assert not array[~batch.segment_mask].any()


@GIVEN
@given(slots=st.lists(st.integers(2, 6), max_size=30), rows=st.integers(1, 4), segments=st.integers(1, 4))
def test_first_fit_takes_a_prefix_and_never_overflows(slots, rows, segments):
    """Windows are taken in order until the first that fits nowhere; a row holds at most its slots and segments."""
    windows = [Window(i, 0, 0, 1, n, False) for i, n in enumerate(slots)]
    filled, skipped = first_fit(windows, rows, 8, segments)
    taken = sorted(window.row for row in filled for window in row)
    assert taken == list(range(len(taken)))
    assert skipped == (len(taken) < len(slots))
    for row in filled:
        assert sum(window.slots for window in row) <= 8 and len(row) <= segments
        if skipped:
            assert sum(w.slots for w in row) + slots[len(taken)] > 8 or len(row) == segments


def test_batch_shows_the_recording(curated):
    """Keyframe, sampled and held frames, cameras at each slot's last frame, actions, state and caption of every
    training event, computed here from the episode by the definition."""
    rows = curated.index.select("train")
    batch = event_batch(curated, rows, SETTINGS)
    hz, mask = curated.embodiment.control_hz, curated.embodiment.dof_mask
    for b, number in enumerate(rows):
        row = curated.index.row(number)
        frames, state = curated.frames(row.episode), curated.state(row.episode)
        last = min(row.end, len(frames) - 1)
        slots = int(batch.frame_mask[b].sum())
        for f in range(slots):
            for r in range(4):
                source = row.start if f == 0 else min(row.start + 2 * (4 * (f - 1) + r + 1), last)
                np.testing.assert_array_equal(batch.frames[b, f, r], frames[source])
            np.testing.assert_allclose(batch.extrinsics[b, f, :, 0, 3], source / 100, atol=1e-6)
            assert batch.frame_times[b, f] == pytest.approx(8 * f / hz)
        assert source == last or batch.truncated[b, 0]
        steps = int(batch.action_mask[b].sum())
        decoded = curated.embodiment.decode(batch.actions[b, :steps], state[row.start], curated.statistics)
        recorded = curated.action(row.episode)[row.start : row.start + steps]
        np.testing.assert_allclose(decoded[:, mask], recorded[:, mask], atol=1e-6)
        np.testing.assert_allclose(batch.action_times[b, :steps], np.arange(1, steps + 1) / hz, rtol=1e-6)
        np.testing.assert_array_equal(
            batch.state[b, 0], curated.embodiment.encode_state(state[row.start], curated.statistics)
        )
        assert batch.event_steps[b, 0] == row.length


def test_packed_events_equal_separate_events(curated):
    """What an event shows does not depend on its row companions or its place."""
    pool = make_pool(curated, make_sampler(curated, SETTINGS, 3, "train"), SETTINGS, 0)
    packed = pack(curated, pool.rows[:6], SETTINGS)
    for b, windows in enumerate(pool.rows[:6]):
        alone = event_batch(curated, [window.row for window in windows], SETTINGS, row_frames=8)
        for s in range(len(windows)):
            for field, ids in (
                ("frames", "frame"),
                ("frame_times", "frame"),
                ("intrinsics", "frame"),
                ("actions", "action"),
            ):
                here = getattr(packed, field)[b][getattr(packed, f"{ids}_segment_ids")[b] == s + 1]
                there = getattr(alone, field)[s][getattr(alone, f"{ids}_segment_ids")[s] == 1]
                np.testing.assert_array_equal(here, there)
            for field in ("state", "text", "dof_mask", "event_steps", "event_rows"):
                np.testing.assert_array_equal(getattr(packed, field)[b, s], getattr(alone, field)[s, 0])


def test_pool_is_a_pure_function_of_seed_and_number(curated):
    """Fresh samplers make the same pool; another seed or number makes another. At most one draw is skipped."""
    pools = [make_pool(curated, make_sampler(curated, SETTINGS, seed, "train"), SETTINGS, number)
             for seed, number in ((5, 2), (5, 2), (5, 3), (6, 2))]  # fmt: skip
    assert pools[0] == pools[1]
    assert pools[0].rows != pools[2].rows and pools[0].rows != pools[3].rows
    assert all(pool.skipped <= 1 and pool.efficiency(8) > 0.6 for pool in pools)


def test_pools_never_share_a_draw(curated):
    """The draws that consecutive pools ask for do not overlap, or batches would repeat events in step."""
    asked = []

    class Recorder(EventSampler):
        def draws(self, first, count):
            asked.append(range(first, first + count))
            return super().draws(first, count)

    even = make_sampler(curated, SETTINGS, 0, "train")
    recorder = Recorder(even.rows, even.probabilities, 0)
    for number in range(3):
        make_pool(curated, recorder, SETTINGS, number)
    numbers = [number for part in asked for number in part]
    assert len(numbers) == len(set(numbers)) > 3 * 192


def test_black_borders_leave_the_loss(curated):
    """Cells that touch a black border are masked in the view that has it, also where the border ends inside a cell."""
    numbers = dict(curated._numbers) | {"borders": np.zeros_like(curated._numbers["borders"])}
    numbers["borders"][0] = [[3, 0, 0, 0], [0, 0, 0, 8]]
    view = CuratedDataset(curated.root, curated.index, curated.statistics, curated.embodiment, curated.report, numbers)
    batch = event_batch(view, curated.index.select()[:1], SETTINGS)
    assert batch.border_mask[0, 0].tolist() == [[[False, False], [True, True]], [[True, False], [True, False]]]


def test_length_buckets(curated):
    """`row_frames` sets F; the actions follow; a bucket too short for the event is refused."""
    rows = curated.index.select()
    batch = event_batch(curated, rows[:1], SETTINGS, row_frames=6)
    assert batch.frames.shape[1] == 6 and batch.actions.shape[1] == 40
    longest = rows[np.argmax(curated.index.columns["length"][rows])]
    with pytest.raises(InputError, match="row_frames"):
        event_batch(curated, [int(longest)], SETTINGS, row_frames=2)


@pytest.mark.parametrize(
    "field, value", [("max_latent_frames", 9), ("max_latent_frames", 1), ("rows", 0), ("anchor_jitter", 2.0)]
)
def test_impossible_settings_are_refused(field, value):
    """The message names the field; an unknown key is named too."""
    with pytest.raises(InputError, match=field):
        LoaderSettings(**{field: value})
    with pytest.raises(InputError, match="row_framez"):
        LoaderSettings.from_config({"row_framez": 8})
