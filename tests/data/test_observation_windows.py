"""Observation-centred windows: the recorded past, no invented one, the layout of eq. 11, and their own clusterings."""

import dataclasses
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.test_packing import check_padding
from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import WINDOWS, CuratedDataset
from wallwm_jax.data.curation.index import EventIndex
from wallwm_jax.data.curation.window_clusters import WindowIndexSettings, index_windows
from wallwm_jax.data.curation.window_index import WindowIndex
from wallwm_jax.data.packing import event_batch, observation_batch, pack
from wallwm_jax.data.pipeline import EventLoader, make_sampler
from wallwm_jax.data.sampling import Draw
from wallwm_jax.data.settings import HistorySettings, LoaderSettings
from wallwm_jax.data.text import decode
from wallwm_jax.data.windows import make_window

HISTORY = HistorySettings(history_latents=2, future_latents=2, share=0.5, text_length=40)
SETTINGS = LoaderSettings(rows=3, text_length=24, history=HISTORY)
STRIDE, STEPS = 2, 16
INDEX = WindowIndexSettings(spacing=5, vision_language_clusters=4, action_clusters=4)


@pytest.fixture(scope="module")
def indexed(curated_root, tmp_path_factory) -> CuratedDataset:
    """The toy dataset with a window index."""
    root = tmp_path_factory.mktemp("indexed") / "toy"
    shutil.copytree(curated_root, root)
    curated = CuratedDataset.open(root)
    index_windows(curated, SETTINGS, INDEX)
    return curated


def at(curated: CuratedDataset, episode: int, anchor: int, loader: LoaderSettings = SETTINGS, level: float = 0.9):
    """A batch of the one window of `episode` at `anchor`."""
    index = WindowIndex(
        {"episode": np.array([episode]), "anchor": np.array([anchor])}, curated.windows(SETTINGS).shape, 1
    )
    other = CuratedDataset(
        curated.root, curated.index, curated.statistics, curated.embodiment, curated.report, curated._numbers
    )
    index.shape = index.shape | {"history_latents": loader.history.history_latents}
    other._windows = index
    return pack(other, [[make_window(other, Draw(0, 0.0, True, level), loader)]], dataclasses.replace(loader, rows=1))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_window_shows_the_recording(indexed, data):
    """Slots, times, tau, frames, cameras, targets and state of any anchor, computed here from the episode by eq. 11;
    what lies outside the episode, or behind the event that the window is told, is masked and empty."""
    episode = data.draw(st.sampled_from(indexed.episodes))
    length = indexed.length(episode)
    anchor = data.draw(st.integers(0, length - 4))
    level = data.draw(st.sampled_from([0.0, 0.9]))
    batch = at(indexed, episode, anchor, level=level)
    frames, hz = indexed.frames(episode), indexed.embodiment.control_hz
    check_padding(batch)
    event = indexed.event_at(episode, anchor)
    last = length if level == 0.0 or event < 0 else indexed.index.columns["end"][event]
    steps = min(STEPS, last - anchor)
    for slot in range(8):
        sampled = [0] * 4 if slot == 0 else [4 * (slot - 1) + r + 1 for r in range(4)]
        wanted = [anchor + STRIDE * (n - 8) for n in sampled]
        real = slot < 5 and wanted[-1] >= 0 and (slot < 3 or (slot - 3) * 8 < steps)
        assert batch.frame_mask[0, slot] == real and batch.observed_mask[0, slot] == (real and slot < 3)
        if real:
            for raw, source in enumerate(wanted):
                source = min(max(source, 0), anchor + steps, length - 1)
                np.testing.assert_array_equal(batch.frames[0, slot, raw], frames[source])
            assert batch.frame_positions[0, slot] == slot
            assert batch.frame_times[0, slot] == pytest.approx((slot - 2) * 8 / hz)
            np.testing.assert_allclose(batch.extrinsics[0, slot, :, 0, 3], source / 100, atol=1e-6)
    np.testing.assert_array_equal(batch.frames[0, 2, -1], frames[anchor])
    assert batch.action_mask.sum() == steps and batch.anchor_positions[0, 0] == 2
    np.testing.assert_array_equal(batch.action_frames[0, :steps], 2 + np.arange(steps) // 8 + 1)
    np.testing.assert_allclose(batch.action_times[0, :steps], np.arange(1, steps + 1) / hz, rtol=1e-6)
    state, mask = indexed.state(episode)[anchor], indexed.embodiment.dof_mask
    decoded = indexed.embodiment.decode(batch.actions[0, :steps], state, indexed.statistics)
    np.testing.assert_allclose(decoded[:, mask], indexed.action(episode)[anchor : anchor + steps, mask], atol=1e-6)
    np.testing.assert_array_equal(batch.state[0, 0], indexed.embodiment.encode_state(state, indexed.statistics))


@pytest.mark.parametrize("start, steps", [(0, 16), (7, 16), (-5, 5)])
def test_without_history_a_window_is_an_event(indexed, start, steps):
    """M = 0: every array is that of an event-centric window of the same content, also at the episode's end."""
    episode = indexed.episodes[1]
    start %= indexed.length(episode)
    template = indexed.index.row(indexed.event_at(episode, start))
    task = indexed.index.row(indexed.task_row(episode))
    rows = [dataclasses.replace(template, start=start, end=start + steps, length=steps), task]
    numbers = (indexed.statistics, indexed.embodiment, indexed.report, indexed._numbers)
    view = CuratedDataset(indexed.root, EventIndex.from_rows(rows), *numbers)
    view._windows = indexed.windows(SETTINGS)
    plain = dataclasses.replace(SETTINGS, segments=1, history=dataclasses.replace(HISTORY, history_latents=0))
    window = at(view, episode, start, plain)
    longer = dataclasses.replace(SETTINGS, text_length=HISTORY.text_length)
    event = event_batch(view, [0], longer, row_frames=SETTINGS.row_frames)
    for name, one, other in zip(window._fields, window, event, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_captions_of_both_levels(indexed):
    """A window reads the episode's instruction, and goes on behind the event at its anchor; or that event's caption,
    and ends with it. The batch tells which."""
    episode = indexed.episodes[0]
    row = indexed.index.select()[0]
    event = indexed.index.row(row)
    anchor = event.end - 1
    for level, expected, steps in ((0.0, indexed.task_row(episode), STEPS), (0.9, row, 1)):
        batch = at(indexed, episode, anchor, level=level)
        assert batch.event_rows[0, 0] == expected and batch.told_event[0, 0] == (expected == row)
        assert decode(batch.text[0, 0]) == indexed.index.row(expected).caption
        assert batch.text.shape[-1] == 40 and batch.action_mask.sum() == steps
    assert indexed.instruction(episode) == "tidy the table"
    for level, expected in (("task", indexed.task_row(episode)), ("action", indexed.event_at(episode, 0))):
        assert observation_batch(indexed, [0], SETTINGS, level).event_rows[0, 0] == expected


def test_events_are_found_by_frame(indexed):
    """Every frame of an action row finds its row, and no other frame does."""
    for episode in indexed.episodes:
        rows = [row for row in indexed.index.select() if indexed.index.columns["episode"][row] == episode]
        expected = np.full(indexed.length(episode), -1)
        for row in rows:
            expected[indexed.index.columns["start"][row] : indexed.index.columns["end"][row]] = row
        found = [indexed.event_at(episode, frame) for frame in range(indexed.length(episode))]
        np.testing.assert_array_equal(found, expected)


def test_the_window_index_is_a_grid_with_clusters(indexed):
    """Every fifth frame of every episode is an anchor, splits are the episodes', labels are reproducible, and what is
    read back is what was written."""
    index = WindowIndex.load(indexed.root / WINDOWS)
    for episode in indexed.episodes:
        own = index.columns["episode"] == episode
        np.testing.assert_array_equal(index.columns["anchor"][own], np.arange(0, indexed.length(episode), 5))
        split = indexed.index.columns["split"][indexed.task_row(episode)]
        assert set(index.columns["split"][own]) == {split}
    again = index_windows(indexed, SETTINGS, INDEX)
    for name, column in index.columns.items():
        np.testing.assert_array_equal(column, again.columns[name])
    assert all(2 <= len(np.unique(index.columns[name])) <= 4 for name in ("vision_language_cluster", "action_cluster"))


def test_the_loader_mixes_both_kinds(indexed):
    """Half of the draws are windows (400 draws: five standard deviations are 50), balanced over both their clusterings;
    the events among them are those of the loader without windows; a batch is a function of (seed, step)."""
    sampler = make_sampler(indexed, SETTINGS, 3, "train")
    events = make_sampler(indexed, dataclasses.replace(SETTINGS, history=None), 3, "train").draws(0, 400)
    draws = sampler.draws(0, 400)
    observed = np.array([draw.observation for draw in draws])
    assert abs(observed.sum() - 200) < 50
    assert [(d.row, d.jitter) for d in draws if not d.observation] == [
        (d.row, d.jitter) for d, other in zip(events, observed, strict=True) if not other
    ]
    assert sampler.draws(123, 3) == draws[123:126]
    columns, chosen = indexed.windows(SETTINGS).columns, sampler.observations
    assert set(columns["split"][chosen.rows]) == {"train"}
    for name in ("vision_language_cluster", "action_cluster"):
        _, labels = np.unique(columns[name][chosen.rows], return_inverse=True)
        even, balanced = (np.bincount(labels, weights) for weights in (None, chosen.probabilities))
        assert np.ptp(balanced) < np.ptp(even / even.sum())
    first, second = EventLoader(indexed, SETTINGS, seed=3), EventLoader(indexed, SETTINGS, seed=3)
    one, _, other = first[5], first[0], second[5]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
    assert {0, 2} <= set(one.anchor_positions[one.segment_mask].tolist()) | set(
        first[6].anchor_positions[first[6].segment_mask].tolist()
    )


def test_anchors_move_between_those_of_the_index(indexed):
    """With jitter an anchor lies anywhere before its grid's next one, and leaves steps to act."""
    moving = dataclasses.replace(SETTINGS, anchor_jitter=1.0)
    columns = indexed.windows(SETTINGS).columns
    for row in range(0, len(columns["anchor"]), 7):
        window = make_window(indexed, Draw(row, 0.99, True), moving)
        length = indexed.length(window.episode)
        grid = columns["anchor"][row]
        assert window.anchor == max(grid, min(grid + 4, length - 4)) and window.end <= length


def test_bad_input_is_refused(curated, indexed):
    """No index, an index of other windows, an instruction or a window that does not fit: each names itself."""
    with pytest.raises(InputError, match="index_windows"):
        EventLoader(curated, SETTINGS, seed=0)
    for other in (dataclasses.replace(HISTORY, history_latents=1), dataclasses.replace(HISTORY, future_latents=1)):
        with pytest.raises(InputError, match="window index"):
            EventLoader(indexed, dataclasses.replace(SETTINGS, history=other), seed=0)
    short = dataclasses.replace(SETTINGS, text_length=24, history=dataclasses.replace(HISTORY, text_length=10))
    with pytest.raises(InputError, match=r"data\.history\.text_length"):
        EventLoader(indexed, short, seed=0)
    with pytest.raises(InputError, match=r"data\.row_frames: found 8"):
        dataclasses.replace(SETTINGS, history=dataclasses.replace(HISTORY, history_latents=6))
    with pytest.raises(InputError, match=r"data\.history\.share"):
        HistorySettings(share=1.5)
    with pytest.raises(InputError, match=r"data\.history: found unknown key 'past'"):
        LoaderSettings.from_config({"history": {"past": 2}})
    loaded = LoaderSettings.from_config({"history": dataclasses.asdict(HISTORY)})
    assert loaded.history == HISTORY and loaded.chunk_steps == STEPS
    with pytest.raises(InputError, match=r"data\.history: found None"):
        index_windows(curated, LoaderSettings())
