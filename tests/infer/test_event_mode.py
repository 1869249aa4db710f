"""Event mode on a model whose answers are known: what is read when, lengths, buckets, padding, randomness."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.conditions import WindowSettings, condition_batch
from wallwm_jax.infer.denoise import SolverSettings, TextCondition
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings
from wallwm_jax.infer.safety import EMPTY_TEXT

ARM = [10, 11, 12]
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def make_mode(embodiment, statistics, known_flow):
    """Modes by their settings; equal ones are shared, compiled programs and all, unless `fresh` tells them apart."""

    @functools.cache
    def make(feature_scale=1.0, rows=3, fresh=None, **solver):
        solver = {"video_steps": 4, "action_steps": 3, "anchor_step": 45} | solver
        window = WindowSettings(text_length=16, max_latent_frames=4, buckets=(2, 3, 4))
        settings = EventModeSettings(rows, window, SolverSettings(**solver))
        return EventMode(known_flow(feature_scale), {}, embodiment, statistics, settings)

    return make


def test_trajectory_and_dream_land_on_the_known_answer(make_mode, observe):
    """Actions are decoded relative to the anchor state in metres; frames are keyframe, then R a latent; lengths are
    the ones asked for."""
    observations, captions, steps = [observe(0), observe(1)], ["lift", "open it"], [5, 20]
    predictions = make_mode(0.0).predict(observations, captions, steps, key=KEY)
    anchor_time = 5 * 0.1 / (1 + 4 * 0.1)
    for observation, caption, count, prediction in zip(observations, captions, steps, predictions, strict=True):
        latents = -(-count // 8)
        assert prediction.actions.actions.shape == (count, 26) and prediction.actions.step_mask.all()
        assert prediction.bucket == 1 + latents and prediction.frames.shape[0] == 1 + 4 * latents
        expected = 2 * observation.state[ARM] + (len(caption) + 1) / 100 + anchor_time
        np.testing.assert_allclose(prediction.actions.actions[:, ARM], np.tile(expected, (count, 1)), atol=1e-5)
        untouched = np.setdiff1d(np.arange(26), [*ARM, 19])
        np.testing.assert_array_equal(prediction.actions.actions[:, untouched], 0)
        cells = observation.views.reshape(2, 2, 8, 2, 8, 3).mean(axis=(2, 4))
        for latent in (1, latents):
            dreamt = prediction.frames[4 * latent].reshape(2, 2, 8, 2, 8, 3).mean(axis=(2, 4))
            np.testing.assert_allclose(dreamt, cells + 25.5 * latent, atol=0.51)  # half a grey level of rounding


def test_anchor_zero_reads_pure_noise_once(make_mode, observe):
    """With the anchor at 0 the action is read at t = 1 after one video forward; without a dream there is no other."""
    mode, steps = make_mode(0.0, anchor_step=0, fresh="steps"), []
    run = mode.programs.run
    mode.programs.run = lambda name, *arguments: steps.append(name) or run(name, *arguments)
    prediction = mode.predict([observe(0)], ["lift"], [4], key=KEY, dream=False)[0]
    expected = 2 * observe(0).state[ARM] + 0.05 + 1.0
    np.testing.assert_allclose(prediction.actions.actions[0, ARM], expected, atol=1e-5)
    assert steps.count("video") == 1 and prediction.frames is None


def test_duration_head_gives_the_length(make_mode, observe):
    """Without steps the duration head decides (here: caption bytes and the end token), cut to the longest
    bucket; of one event alone, too, whose prediction is then the same."""
    mode = make_mode()
    captions = ["lift", "open", "close it"]
    predictions = mode.predict([observe(i) for i in range(3)], captions, key=KEY, dream=False)
    assert [prediction.steps for prediction in predictions] == [5, 5, 9]
    assert [len(prediction.actions.actions) for prediction in predictions] == [5, 5, 9]
    np.testing.assert_allclose(mode.durations([observe(0)], ["lift"]), [5], rtol=1e-5)
    mixed = mode.predict([observe(i) for i in range(3)], captions, [None, 7, None], key=KEY, dream=False)
    assert [prediction.steps for prediction in mixed] == [5, 7, 9]
    for place in (0, 2):
        np.testing.assert_array_equal(mixed[place].actions.actions, predictions[place].actions.actions)
    long = mode.predict([observe(0)], ["lift"], [100], key=KEY, dream=False)[0]
    assert long.steps == 100 and long.bucket == 4 and len(long.actions.actions) == 24


def test_one_compilation_a_bucket(make_mode, observe):
    """Calls of any number of events and lengths of one bucket share its programs; jax's own compile counter agrees."""
    mode, compiled = make_mode(fresh="compiled"), []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    mode.predict([observe(0)], ["lift"], [3], key=KEY)
    first = mode.compiled
    assert sorted(first) == [
        ("act", 2), ("foresee", 2), ("noise", 0), ("observe", 0), ("show", 2), ("text", 0), ("video", 2),
    ]  # fmt: skip
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        mode.predict([observe(i) for i in range(5)], ["lift"] * 5, [1, 8, 2, 7, 5], key=jax.random.key(1))
        assert compiled == [] and mode.compiled == first
        mode.predict([observe(0)], ["lift"], [9], key=KEY)
        assert len(compiled) == 4 and mode.compiled[len(first) :] == (
            ("foresee", 3),
            ("video", 3),
            ("act", 3),
            ("show", 3),
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_other_events_of_a_call_do_not_matter(make_mode, observe):
    """Padding rows, companions and the split into calls of the compiled size leave a prediction bit-identical."""
    mode = make_mode()
    observations, captions, steps = [observe(i) for i in range(4)], ["lift", "press", "open", "go"], [6, 7, 8, 3]
    together = mode.predict(observations, captions, steps, key=KEY)
    alone = mode.predict(observations[:1], captions[:1], steps[:1], key=KEY)[0]
    other = mode.predict([observations[0], observe(9), observe(8)], ["lift", "x", "y"], [6, 24, 1], key=KEY)[0]
    for prediction in (alone, other):
        np.testing.assert_array_equal(prediction.actions.actions, together[0].actions.actions)
        np.testing.assert_array_equal(prediction.frames, together[0].frames)


def test_randomness_is_the_key(make_mode, observe):
    """The same key repeats, another one differs, and two places of a call draw different noise."""
    mode = make_mode()
    events = ([observe(0)] * 2, ["lift"] * 2, [6, 6])
    first, again, other = (mode.predict(*events, key=jax.random.key(seed), dream=False) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0].actions.actions, again[0].actions.actions)
    assert np.abs(first[0].actions.actions - other[0].actions.actions).max() > 1e-4
    assert np.abs(first[0].actions.actions - first[1].actions.actions).max() > 1e-4


def test_samples_are_averaged(make_mode, observe):
    """Several action noises share one video forward; on a flow with one end their mean is that end."""
    modes = (make_mode(0.0), make_mode(0.0, samples=3))
    predictions = (mode.predict([observe(0)], ["lift"], [6], key=KEY, dream=False)[0] for mode in modes)
    single, mean = (prediction.actions.actions for prediction in predictions)
    np.testing.assert_allclose(single, mean, atol=1e-5)


def test_absent_view_is_not_read(make_mode, observe):
    """Pixels of a masked view have no influence on anything."""
    seen = observe(0)._replace(view_mask=np.array([True, False]))
    changed = seen._replace(views=np.stack([seen.views[0], 255 - seen.views[1]]))
    first, second = (make_mode().predict([o], ["lift"], [6], key=KEY)[0] for o in (seen, changed))
    np.testing.assert_array_equal(first.actions.actions, second.actions.actions)
    np.testing.assert_array_equal(first.frames, second.frames)


@settings(max_examples=25)
@given(steps=st.integers(1, 200), stride=st.integers(1, 4), buckets=st.sets(st.integers(2, 9), min_size=1))
def test_bucket_holds_the_event_and_no_more(steps, stride, buckets):
    """The smallest bucket whose future latents cover the steps, or else the longest."""
    buckets = tuple(sorted(buckets))
    window = WindowSettings(frame_stride=stride, max_latent_frames=buckets[-1], buckets=buckets)
    fitting = [bucket for bucket in buckets if (bucket - 1) * 4 * stride >= steps]
    assert window.bucket(steps) == (min(fitting) if fitting else buckets[-1])


def test_a_longer_bucket_changes_nothing(make_mode, observe, embodiment, statistics, known_flow):
    """An event padded to a longer bucket has the same noise and, masked, the same prediction."""
    short = make_mode(0.0)
    window = WindowSettings(text_length=16, max_latent_frames=4, buckets=(4,))
    long = EventMode(known_flow(0.0), {}, embodiment, statistics, EventModeSettings(3, window, short.settings.solver))
    first, second = (mode.predict([observe(0)], ["lift"], [6], key=KEY)[0] for mode in (short, long))
    assert (first.bucket, second.bucket) == (2, 4) and first.frames.shape == second.frames.shape
    np.testing.assert_allclose(first.actions.actions, second.actions.actions, atol=1e-6)
    np.testing.assert_array_equal(first.frames, second.frames)


def test_bad_input_is_refused(make_mode, observe, embodiment, statistics):
    """Each message names the field, what was found and what was expected."""
    mode = make_mode()
    with pytest.raises(InputError, match="captions: found 1"):
        mode.predict([observe(0)] * 2, ["lift"], [1, 1], key=KEY)
    with pytest.raises(InputError, match="steps: found 1"):
        mode.predict([observe(0)] * 2, ["lift"] * 2, [1], key=KEY)
    with pytest.raises(InputError, match="event steps: found 0"):
        mode.predict([observe(0)], ["lift"], [0], key=KEY)
    with pytest.raises(InputError, match="caption"):
        mode.predict([observe(0)], ["lift the very long caption"], [4], key=KEY)


def test_masks_of_a_condition_batch(observe, embodiment, statistics):
    """Real slots are those the event covers: ids 1, positions in order, times in seconds; the rest is padding."""
    window = WindowSettings(text_length=16, max_latent_frames=4)
    batch = condition_batch([observe(0)], [10], 2, 4, embodiment, statistics, window)
    np.testing.assert_array_equal(batch.frame_segment_ids, [[1, 1, 1, 0], [0] * 4])
    np.testing.assert_allclose(batch.frame_times[0], [0, 0.4, 0.8, 0])
    np.testing.assert_array_equal(batch.action_mask.sum(axis=1), [10, 0])
    np.testing.assert_allclose(batch.action_times[0, :3], [0.05, 0.1, 0.15])
    assert batch.segment_mask.tolist() == [[True], [False]] and not batch.truncated.any()
    assert batch.view_mask[0].any(axis=-1).tolist() == [True, True, True, False] and not batch.view_mask[1].any()


def test_the_remainder_of_an_event_needs_no_new_program(make_mode, observe):
    """Replanned from a new observation, an event has the steps that are left, relative to the new pose, and compiles
    nothing; it is what `predict` says of that observation with that many steps."""
    mode = make_mode(fresh="replan")
    observations, captions = [observe(0), observe(1)], ["lift", "press"]
    events = mode.predict(observations, captions, [20, 6], key=KEY)
    programs = mode.compiled
    later = [observe(2), observe(3)]
    rest = mode.replan(events, [13, 4], later, captions, key=KEY)
    assert mode.compiled == programs and [event.steps for event in rest] == [7, 2]
    assert [len(event.actions.actions) for event in rest] == [7, 2]
    known = make_mode(0.0)
    rest = known.replan(known.predict(observations, captions, [20, 6], key=KEY), [13, 4], later, captions, key=KEY)
    for one, other in zip(rest, known.predict(later, captions, [7, 2], key=KEY), strict=True):
        np.testing.assert_allclose(one.actions.actions, other.actions.actions, atol=1e-6)
    for executed in ([20, 4], [-1, 4], [13]):
        with pytest.raises(InputError, match=r"executed: found|replan: found"):
            mode.replan(events, executed, later, captions, key=KEY)


def test_text_from_elsewhere_takes_the_place_of_captions(make_mode, observe):
    """A ready condition, shorter or already padded, gives the bits of the caption it was encoded from, and needs no
    program of its own."""
    mode = make_mode()
    observations, captions = [observe(i) for i in range(4)], ["lift", "press", "open", "go"]
    expected = mode.predict(observations, captions, key=KEY, dream=False)
    given, programs = mode.encode(captions), mode.compiled
    short = TextCondition(given.features[:, :, :6], given.mask[:, :, :6], given.told_event)
    for condition in (given, short):
        found = mode.predict(observations, condition, key=KEY, dream=False)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.actions.actions, other.actions.actions)
    np.testing.assert_array_equal(mode.durations(observations, short), mode.durations(observations, captions))
    assert mode.compiled == programs


@pytest.mark.parametrize("given", ["caption", "condition"])
def test_told_nothing_it_holds_still_and_says_so(make_mode, observe, given):
    """A blank caption, or a condition without a token: that event alone is refused, with or without known lengths."""
    mode, observations = make_mode(), [observe(0), observe(1)]
    captions = ["lift", "  "]
    if given == "condition":
        condition = mode.encode(captions)
        captions = condition._replace(mask=condition.mask & np.array([True, False])[:, None, None])
    for steps in (None, [6, 6]):
        fine, refused = mode.predict(observations, captions, steps, key=KEY, dream=False)
        assert fine.failure is None and refused.failure.name == EMPTY_TEXT
        np.testing.assert_array_equal(
            refused.actions.actions[:, ARM], np.tile(observe(1).state[ARM], (refused.steps, 1))
        )


def test_without_a_duration_head_steps_must_be_given(known_flow, embodiment, statistics, observe):
    """The one error names them; with steps the event is predicted as ever."""

    class Timeless(known_flow):
        def duration(self, *_, **__):
            return None

    window = WindowSettings(text_length=16, max_latent_frames=2, buckets=(2,))
    solver = SolverSettings(video_steps=2, action_steps=2)
    mode = EventMode(Timeless(), {}, embodiment, statistics, EventModeSettings(1, window, solver))
    with pytest.raises(InputError, match="steps: found None, expected control steps of each event"):
        mode.predict([observe(0)], ["lift"], key=KEY)
    assert mode.predict([observe(0)], ["lift"], [6], key=KEY, dream=False)[0].steps == 6
