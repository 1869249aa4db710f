"""A batch built from a user's own arrays is the batch that the loader makes of the same event, for any lengths; what
does not fit is refused by name."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data.event_batch import make_event_batch
from wallwm_jax.data.packing import event_batch, pack
from wallwm_jax.data.settings import HistorySettings, LoaderSettings
from wallwm_jax.data.windows import Window

SETTINGS = LoaderSettings(rows=3, text_length=24)
HISTORY = HistorySettings(history_latents=1, future_latents=2, text_length=40)
UNKNOWN = {"intrinsics", "extrinsics", "camera_mask", "effectors", "effector_mask", "border_mask", "event_rows"}
"""What the arrays of an event do not say. Black borders are the loader's to find."""


def frames_of(batch: EventBatch, row: int) -> np.ndarray:
    """The 1 + 4 N frames behind a row's grouped ones."""
    grouped = batch.frames[row, batch.frame_mask[row]]
    return np.concatenate([grouped[0, -1:], grouped[1:].reshape(-1, *grouped.shape[2:])])


def rebuilt(curated, batch: EventBatch, settings: LoaderSettings, history: int) -> EventBatch:
    """`batch` made once more out of what a user would have of its events."""
    rows = range(len(batch.frames))
    captions = [str(curated.index.columns["caption"][batch.event_rows[row, 0]]) for row in rows]
    return make_event_batch(
        [batch.actions[row, batch.action_mask[row]] for row in rows],
        captions,
        control_hz=curated.embodiment.control_hz,
        steps_per_latent=settings.steps_per_latent,
        frames=[frames_of(batch, row) for row in rows],
        spatial_compression=settings.spatial_compression,
        state=batch.state[:, 0],
        dof_mask=batch.dof_mask[:, 0],
        event_steps=batch.event_steps[:, 0].tolist(),
        history_latents=history,
        slots=batch.frames.shape[1],
        text_length=settings.batch_text_length,
    )


def assert_same(one: EventBatch, other: EventBatch) -> None:
    for field in set(EventBatch._fields) - UNKNOWN:
        a, b = getattr(one, field), getattr(other, field)
        np.testing.assert_array_equal(a, b, err_msg=field)
        assert a is b is None or a.dtype == b.dtype, field


def test_it_is_what_the_loader_makes_of_the_same_events(curated):
    """Event-centric: short events, a truncated one, padding behind each; every field that the arrays decide, and its
    dtype."""
    settings = dataclasses.replace(SETTINGS, max_latent_frames=4)
    chosen = curated.index.select("train", "action")
    batch = event_batch(curated, chosen[:12], settings, row_frames=5)
    assert batch.truncated.any() and not batch.truncated.all() and len({*batch.frame_mask.sum(1)}) > 1
    assert_same(rebuilt(curated, batch, settings, 0), batch)


def test_it_is_what_the_loader_makes_of_the_same_windows(curated):
    """Observation-centred: history before the anchor. A loader's rows have action slots for events without history."""
    slots, history = HISTORY.slots, HISTORY.history_latents
    settings = dataclasses.replace(SETTINGS, row_frames=slots, max_latent_frames=slots, segments=1, history=HISTORY)
    row = int(curated.index.select("train", "action")[0])
    episode = int(curated.index.columns["episode"][row])
    anchors = range(settings.steps_per_latent, curated.length(episode) - settings.chunk_steps, 5)
    ends = [anchor + settings.chunk_steps for anchor in anchors]
    windows = [[Window(row, episode, *span, slots, False, history)] for span in zip(anchors, ends, strict=True)]
    assert len(windows) > 1
    batch = pack(curated, windows, settings)
    assert not batch.action_mask[:, settings.chunk_steps :].any()
    of_steps = [field for field in EventBatch._fields if field.startswith("action")]
    batch = batch._replace(**{field: getattr(batch, field)[:, : settings.chunk_steps] for field in of_steps})
    assert_same(rebuilt(curated, batch, settings, history), batch)


@given(
    steps=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    per_latent=st.integers(1, 6),
    history=st.integers(0, 2),
    spare=st.integers(0, 2),
)
def test_masks_cover_what_was_given(steps, per_latent, history, spare):
    """For any lengths: latents and actions stand where their masks are True and zeros elsewhere; every step lies in a
    slot of its own event, no later than that slot's last frame."""
    rng = np.random.default_rng(0)
    spans = [1 + history - (-count // per_latent) for count in steps]
    latents = [rng.normal(size=(span, 2, 3, 4, 5)) for span in spans]
    actions = [rng.normal(size=(count, 26)) for count in steps]
    batch = make_event_batch(
        actions,
        ["push"] * len(steps),
        control_hz=10.0,
        steps_per_latent=per_latent,
        latents=latents,
        history_latents=history,
        slots=max(spans) + spare,
    )
    assert batch.frames is None and batch.border_mask.shape[-2:] == (3, 4)
    np.testing.assert_array_equal(batch.frame_mask.sum(1), spans)
    np.testing.assert_array_equal(batch.action_mask.sum(1), steps)
    for row, (latent, action) in enumerate(zip(latents, actions, strict=True)):
        np.testing.assert_array_equal(batch.latents[row, batch.frame_mask[row]], latent.astype("f"))
        np.testing.assert_array_equal(batch.actions[row, batch.action_mask[row]], action.astype("f"))
        assert (
            not batch.latents[row, ~batch.frame_mask[row]].any()
            and not batch.actions[row, ~batch.action_mask[row]].any()
        )
        places = batch.action_frames[row, batch.action_mask[row]]
        assert places.min() == history + 1 and places.max() == spans[row] - 1
        assert (batch.action_times[row, batch.action_mask[row]] <= batch.frame_times[row, places] + 1e-6).all()
        assert batch.frame_times[row, history] == 0.0 and batch.observed_mask[row].sum() == history + 1


def test_degrees_of_freedom_and_views_that_are_not_there_are_masked():
    """A number in an absent degree of freedom enters neither the state nor the actions."""
    dof = np.arange(26) < 4
    batch = make_event_batch(
        [np.ones((4, 26))],
        ["push"],
        control_hz=10.0,
        steps_per_latent=4,
        latents=np.ones((1, 2, 2, 3, 3, 5)),
        state=np.ones((1, 26)),
        dof_mask=dof,
        view_mask=np.array([True, False]),
    )
    np.testing.assert_array_equal(batch.actions[0], np.tile(dof, (4, 1)))
    np.testing.assert_array_equal(batch.state[0, 0], dof)
    np.testing.assert_array_equal(batch.view_mask[0], [[True, False]] * 2)


GOOD = {
    "actions": [np.zeros((8, 26)), np.zeros((3, 26))],
    "captions": ["push", "lift"],
    "control_hz": 10.0,
    "steps_per_latent": 4,
    "latents": [np.zeros((3, 1, 2, 2, 5)), np.zeros((2, 1, 2, 2, 5))],
}
FRAMES = [np.zeros((9, 1, 16, 16, 3), np.uint8), np.zeros((5, 1, 16, 16, 3), np.uint8)]
BAD = {
    "captions": ({"captions": ["push"]}, "captions: found 1 events"),
    "width": ({"actions": [np.zeros((8, 26)), np.zeros((3, 7))]}, r"actions\[1\]: found shape \(3, 7\), expected \[A"),
    "nothing": ({"latents": None}, "latents: found neither"),
    "steps": ({"actions": [np.zeros((9, 26)), np.zeros((3, 26))]}, r"actions\[0\]: found 9 steps, expected 5 to 8"),
    "still": ({"latents": [np.zeros((1, 1, 2, 2, 5))] * 2}, "expected at least one latent after the anchor's"),
    "number": ({"actions": [np.full((8, 26), np.nan), np.zeros((3, 26))]}, r"actions\[0\]: found numbers that are not"),
    "alike": ({"latents": [np.zeros((3, 1, 2, 2, 5)), np.zeros((2, 2, 2, 2, 5))]}, r"latents\[1\]: found shape"),
    "slots": ({"slots": 2}, "slots: found 2, expected at least 3"),
    "hz": ({"control_hz": 0.0}, "control_hz: found 0.0"),
    "clock": ({"steps_per_latent": 0}, "steps_per_latent: found 0"),
    "history": ({"history_latents": -1}, "history_latents: found -1"),
    "text": ({"text_length": 3}, "caption 'push': found 5 tokens"),
    "state": ({"state": np.zeros((1, 26))}, r"state: found shape \(1, 26\), expected \[2, 26\]"),
    "dof": ({"dof_mask": np.ones(26)}, "dof_mask: found float64"),
    "views": ({"view_mask": np.ones((2, 3), bool)}, r"view_mask: found bool of shape \(2, 3\)"),
    "total": ({"event_steps": [8, 2]}, r"event_steps\[1\]: found 2, expected at least the 3 steps"),
    "frames": ({"latents": None, "frames": [part[1:] for part in FRAMES]}, r"frames\[0\]: found 8 frames"),
    "floats": ({"latents": None, "frames": [part / 255 for part in FRAMES]}, r"frames\[0\]: found float64"),
    "codec": ({"latents": None, "frames": FRAMES}, "spatial_compression: found None"),
    "cells": ({"latents": None, "frames": FRAMES, "spatial_compression": 5}, "frames: found 16 x 16 pixels"),
    "both": ({"frames": FRAMES[::-1]}, "latents: found .latents, views. "),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_by_name(case):
    """Each input differs in one thing from one that is accepted."""
    make_event_batch(**GOOD)
    changes, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make_event_batch(**{**GOOD, **changes})
