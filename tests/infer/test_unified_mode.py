"""Unified mode on a model whose answers are known: chunks, history, text from any source, and what must not matter."""

import functools

import jax
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.conditions import ChunkSettings, WindowSettings, chunk_batch
from wallwm_jax.infer.denoise import SolverSettings, TextCondition
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import EMPTY_TEXT
from wallwm_jax.infer.text_sources import CaptionSource, InstructionSource, TextSource
from wallwm_jax.infer.unified_mode import UnifiedMode, UnifiedModeSettings

ARM = [10, 11, 12]
KEY = jax.random.key(0)
SOLVER = SolverSettings(video_steps=4, action_steps=3)


@pytest.fixture(scope="module")
def make_mode(embodiment, statistics, known_flow):
    """Modes by their settings; equal ones are shared, compiled programs and all, unless `fresh` tells them apart."""

    @functools.cache
    def make(feature_scale=1.0, rows=2, history=2, fresh=None):
        window = ChunkSettings(history_latents=history, text_length=24)
        return UnifiedMode(
            known_flow(feature_scale), {}, embodiment, statistics, UnifiedModeSettings(rows, window, SOLVER)
        )

    return make


@pytest.fixture
def seen(observe):
    """The history of `mode` after the observations of some seeds, in order."""

    def make(mode, *seeds):
        history = mode.history()
        for seed in seeds:
            history.push(observe(seed))
        return history

    return make


def test_a_chunk_lands_on_the_known_answer(make_mode, observe, seen):
    """H_a poses relative to the current state, and the present with N x R dreamt frames after it. The last frames of
    the two history latents are those of 16 and 8 control steps ago."""
    mode = make_mode(0.0)
    (prediction,) = mode.act([seen(mode, *range(1, 20), 0)], ["lift"], key=KEY, dream=True)
    expected = 2 * observe(0).state[ARM] + 5 / 100 + 0.5 / 1.4
    assert prediction.actions.actions.shape == (16, 26) and prediction.failure is None and prediction.clipped == 0
    np.testing.assert_allclose(prediction.actions.actions[:, ARM], np.tile(expected, (16, 1)), atol=1e-5)
    present, first, second = (observe(n).views.reshape(2, 2, 8, 2, 8, 3).mean(axis=(2, 4)) for n in (0, 4, 12))
    cells = present + 0.25 * (first + second)
    assert prediction.frames.shape[0] == 1 + 2 * 4
    for latent in (1, 2):
        dreamt = prediction.frames[4 * latent].reshape(2, 2, 8, 2, 8, 3).mean(axis=(2, 4))
        np.testing.assert_allclose(dreamt, cells + 25.5 * latent, atol=0.51)  # half a grey level of rounding


def test_without_history_a_chunk_is_an_event(make_mode, embodiment, statistics, known_flow, observe, seen):
    """M = 0: event mode predicts the same event of H_a steps, bit for bit, from the same key."""
    mode = make_mode(history=0)
    window = WindowSettings(text_length=24, max_latent_frames=3, buckets=(3,))
    events = EventMode(known_flow(1.0), {}, embodiment, statistics, EventModeSettings(2, window, SOLVER))
    (chunk,) = mode.act([seen(mode, 5, 6, 0)], ["lift"], key=KEY, dream=True)
    (event,) = events.predict([observe(0)], ["lift"], [16], key=KEY)
    np.testing.assert_array_equal(chunk.actions.actions, event.actions.actions)
    np.testing.assert_array_equal(chunk.frames, event.frames)


def test_history_is_read_where_it_exists_and_nowhere_else(make_mode, seen):
    """Another past changes the dream; frames before the ring's reach and before the first observation do not."""
    mode = make_mode(0.0)
    past = list(range(1, 17))

    def dream(*seeds):
        return mode.act([seen(mode, *seeds)], ["lift"], key=KEY, dream=True)[0].frames

    first, other, longer = dream(*past, 0), dream(*[30] * 16, 0), dream(40, 41, *past, 0)
    np.testing.assert_array_equal(first, longer)
    assert np.any(first != other)
    batch = chunk_batch([seen(mode, 3, 0)], 2, mode.embodiment, mode._statistics, mode.settings.window)
    assert batch.frame_mask.tolist() == [[False, False, True, True, True], [False] * 5]
    assert not batch.frames[0, :2].any() and batch.anchor_positions[0, 0] == 2
    assert batch.observed_mask[0].tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(batch.frame_times[0], [0, 0, 0, 0.4, 0.8])
    np.testing.assert_array_equal(batch.action_frames[0], np.repeat([3, 4], 8))
    assert batch.actions.shape[1] == 16 and not batch.action_mask[1].any()


def test_other_robots_of_a_call_do_not_matter(make_mode, seen):
    """Companions, padding rows and the split into calls of the compiled size leave a chunk bit-identical."""
    mode = make_mode()
    robots = [seen(mode, *range(n, n + 3 + n)) for n in range(3)]
    together = mode.act(robots, ["lift", "press", "open"], key=KEY)
    alone = mode.act(robots[:1], ["lift"], key=KEY)[0]
    np.testing.assert_array_equal(alone.actions.actions, together[0].actions.actions)
    assert np.abs(together[0].actions.actions - together[1].actions.actions).max() > 1e-4
    other = mode.act(robots[:1], ["lift"], key=jax.random.key(1))[0]
    assert np.abs(alone.actions.actions - other.actions.actions).max() > 1e-4


def test_switching_sources_compiles_nothing_and_draws_the_same_noise(make_mode, observe, seen):
    """After warming up, any source, number of robots, length of history or text finds its programs ready (jax's own
    counter agrees); and with the same words every source gives the same bits, so that no noise depends on it."""
    mode, compiled = make_mode(fresh="sources"), []
    request = Request(observe(0), "lift")
    sources = [InstructionSource(mode.encode), CaptionSource(mode.encode, lambda asked: "lift")]
    assert all(isinstance(source, TextSource) for source in sources)
    mode.warm_up(observe(0).views.shape, dream=True)
    programs = mode.compiled
    assert sorted(programs) == [
        ("act", 5), ("foresee", 5), ("noise", 0), ("observe", 0), ("show", 5), ("text", 0), ("video", 5),
    ]  # fmt: skip

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        reference = mode.act([seen(mode, 0)], ["lift"], key=KEY, dream=True)[0]
        for source in sources:
            chunk = mode.act([seen(mode, 0)], source.condition([request]), key=KEY, dream=True)[0]
            np.testing.assert_array_equal(chunk.actions.actions, reference.actions.actions)
            np.testing.assert_array_equal(chunk.frames, reference.frames)
        latents = TextCondition(np.ones((3, 1, 8, 1), np.float32), np.ones((3, 1, 8), bool), np.ones((3, 1), bool))
        mode.act([seen(mode, *range(n + 1)) for n in (0, 7, 30)], latents, key=KEY)
        mode.act([seen(mode, 1)], ["a much longer sentence"], key=KEY)
        assert compiled == [] and mode.compiled == programs
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_an_instruction_is_encoded_once(make_mode, observe):
    """The same arrays again and again, each robot its own; a caption source asks anew for every chunk."""
    mode, encoded, asked = make_mode(), [], []

    def encode(captions):
        encoded.append(list(captions))
        return mode.encode(captions)

    source = InstructionSource(encode)
    requests = [Request(observe(0), text, chunk=chunk) for chunk, text in enumerate(["tidy up", "press", "tidy up"])]
    first, again = source.condition(requests), source.condition(requests[::-1])
    assert encoded == [["tidy up", "press"]]
    np.testing.assert_array_equal(first.features, again.features[::-1])
    np.testing.assert_array_equal(first.mask.sum(axis=(1, 2)), [8, 6, 8])
    assert not first.told_event.any()
    captions = CaptionSource(encode, lambda request: asked.append(request) or f"chunk {request.chunk}")
    assert captions.condition(requests[:2]).told_event.all()
    assert encoded[-1] == ["chunk 0", "chunk 1"] and asked == requests[:2]


def test_a_blank_caption_tells_nothing(make_mode, observe):
    """Its row is masked altogether, so that the mode holds still; a caption that nobody gave is refused."""
    source = CaptionSource(make_mode().encode)
    told = source.condition([Request(observe(0), caption="lift"), Request(observe(1), caption=" ")])
    assert told.mask.any((1, 2)).tolist() == [True, False]
    with pytest.raises(InputError, match="caption of robot 3: found None"):
        source.condition([Request(observe(0), scene=3)])
    with pytest.raises(InputError, match="instruction of robot 0: found ' '"):
        InstructionSource(make_mode().encode).condition([Request(observe(0), " ")])


def test_masked_text_has_no_influence(make_mode, seen):
    """Whatever a source leaves in masked tokens, even what is no number, changes no bit."""
    mode = make_mode()
    given = mode.encode(["lift"])
    features = np.where(given.mask[..., None], given.features, np.nan)
    first, other = (
        mode.act([seen(mode, 0)], condition, key=KEY)[0].actions.actions
        for condition in (given, TextCondition(features, given.mask, given.told_event))
    )
    np.testing.assert_array_equal(first, other)


def test_bad_input_is_refused(make_mode, observe, seen):
    """Each message names the field, what was found and what was expected."""
    mode = make_mode()
    with pytest.raises(InputError, match="captions: found 1, expected one for each of 2"):
        mode.act([seen(mode, 0)] * 2, ["lift"], key=KEY)
    with pytest.raises(InputError, match="text condition: found 30 tokens, expected at most 24"):
        long = TextCondition(np.zeros((1, 1, 30, 1), np.float32), np.ones((1, 1, 30), bool), np.ones((1, 1), bool))
        mode.act([seen(mode, 0)], long, key=KEY)
    with pytest.raises(InputError, match="text condition"):
        two = TextCondition(np.zeros((1, 2, 8, 1)), np.ones((1, 2, 8), bool), np.ones((1, 2), bool))
        mode.act([seen(mode, 0)], two, key=KEY)
    with pytest.raises(InputError, match="history: found no observation"):
        mode.act([mode.history()], ["lift"], key=KEY)
    with pytest.raises(InputError, match="histories"):
        mode.act([], [], key=KEY)
    lost = mode.history()
    lost.push(observe(0)._replace(state=np.full(26, np.nan, np.float32)))
    with pytest.raises(InputError, match="history 0: state"):
        mode.act([lost], ["lift"], key=KEY)
    with pytest.raises(InputError, match="history_latents: found -1"):
        ChunkSettings(history_latents=-1)


def test_told_nothing_it_holds_still_and_says_so(make_mode, observe, seen):
    """A blank instruction stops its own robot and no other."""
    mode = make_mode()
    fine, refused = mode.act([seen(mode, 0), seen(mode, 1)], ["lift", ""], key=KEY)
    assert fine.failure is None and refused.failure.name == EMPTY_TEXT
    np.testing.assert_array_equal(refused.actions.actions[:, ARM], np.tile(observe(1).state[ARM], (16, 1)))
