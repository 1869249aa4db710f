"""Both modes on the micro model: what padding must not change, with the real attention masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.types import Observation
from wallwm_jax.infer.conditions import ChunkSettings, WindowSettings, chunk_batch, condition_batch
from wallwm_jax.infer.denoise import SolverSettings, TextCondition
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings
from wallwm_jax.infer.unified_mode import UnifiedMode, UnifiedModeSettings
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction

KEY = jax.random.key(3)
STEPS, CAPTIONS = [5, 11], ["lift it", "press"]


SOLVER = SolverSettings(video_steps=2, action_steps=2, anchor_step=25)


@pytest.fixture(scope="module")
def trained(embodiment, statistics):
    """The micro model (16 px, 2 views) and fresh parameters, with the heads' zeros replaced by noise."""
    model = WorldAction(variant("micro"), views=2)
    batch = condition_batch([_observation(0, embodiment)], [1], 1, 3, embodiment, statistics, _window((3,)))
    parameters, _ = init_parameters(model, jax.random.key(0), batch)
    leaves, tree = jax.tree.flatten(parameters)
    generator = np.random.default_rng(0)
    return model, tree.unflatten([leaf + 0.02 * generator.normal(size=leaf.shape).astype("f4") for leaf in leaves])


@pytest.fixture(scope="module")
def make_mode(trained, embodiment, statistics):
    def make(buckets):
        return EventMode(*trained, embodiment, statistics, EventModeSettings(2, _window(buckets), SOLVER))

    return make


def _window(buckets):
    return WindowSettings(max_latent_frames=buckets[-1], text_length=16, spatial_compression=4, buckets=buckets)


def _observation(seed, embodiment):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    return Observation(images, np.ones(2, bool), generator.normal(size=26).astype("f4"), embodiment.dof_mask)


def test_padding_rows_slots_and_companions_change_nothing(make_mode, embodiment):
    """An event predicted alone, beside another, and padded to a longer bucket agrees to 1e-5 (fp32 sums in another
    order); the dream to one grey level. Another caption does change it, so that the test can fail."""
    observations = [_observation(seed, embodiment) for seed in (0, 1)]
    short, long = make_mode((2, 3)), make_mode((3,))
    alone = short.predict(observations[:1], CAPTIONS[:1], STEPS[:1], key=KEY)[0]
    beside = long.predict(observations, CAPTIONS, STEPS, key=KEY)[0]
    padded = long.predict(observations[:1], CAPTIONS[:1], STEPS[:1], key=KEY)[0]
    other = long.predict(observations[:1], ["open"], STEPS[:1], key=KEY)[0]
    assert (alone.bucket, padded.bucket) == (2, 3) and alone.actions.actions.shape == (5, 26)
    for prediction in (beside, padded):
        np.testing.assert_allclose(prediction.actions.actions, alone.actions.actions, atol=1e-5)
        np.testing.assert_allclose(prediction.frames.astype(int), alone.frames.astype(int), atol=1)
    assert np.abs(other.actions.actions - alone.actions.actions).max() > 1e-4
    assert np.isfinite(short.durations(observations[:1], CAPTIONS[:1])).all()


def test_chunks_read_their_own_history(trained, embodiment, statistics):
    """A robot that has just started, beside one with a past, gets the chunk that it gets alone (1e-5: fp32 sums in
    another order); and a robot's past does change its chunk, so that the test can fail."""
    window = ChunkSettings(frame_stride=1, history_latents=1, future_latents=1, text_length=16, spatial_compression=4)
    mode = UnifiedMode(*trained, embodiment, statistics, UnifiedModeSettings(2, window, SOLVER))
    fresh, old = mode.history(), mode.history()
    for seed in (7, 8, 9, 6, 0):
        old.push(_observation(seed, embodiment))
    fresh.push(_observation(0, embodiment))
    alone = mode.act([fresh], ["press"], key=KEY, dream=True)[0]
    beside, _ = mode.act([fresh, old], ["press", "lift it"], key=KEY, dream=True)
    experienced = mode.act([old], ["press"], key=KEY)[0]
    np.testing.assert_allclose(beside.actions.actions, alone.actions.actions, atol=1e-5)
    np.testing.assert_allclose(beside.frames.astype(int), alone.frames.astype(int), atol=1)
    assert alone.actions.actions.shape == (4, 26) and alone.failure is None
    assert np.abs(experienced.actions.actions - alone.actions.actions).max() > 1e-5


def test_what_an_instruction_names_is_not_looked_for(trained, embodiment, statistics):
    """Of the same text told as the task, the readers of the keyframe find what they find without a text; the video
    reads it all the same, so that one instruction's chunk is not another's."""
    window = ChunkSettings(frame_stride=1, history_latents=1, future_latents=1, text_length=16, spatial_compression=4)
    mode = UnifiedMode(*trained, embodiment, statistics, UnifiedModeSettings(2, window, SOLVER))
    history = mode.history()
    history.push(_observation(0, embodiment))
    batch = chunk_batch([history, history], 2, embodiment, statistics, window)
    event = mode.encode(["press", "lift it"])
    task = event._replace(told_event=np.zeros_like(event.told_event))
    silence = task._replace(mask=np.zeros_like(event.mask))
    found = {
        name: np.asarray(mode.programs.observe(batch, text, (0, 1))[0].found)
        for name, text in (("event", event), ("task", task), ("silence", silence))
    }
    np.testing.assert_array_equal(found["task"], found["silence"])
    np.testing.assert_array_equal(found["task"][0], found["task"][1])
    assert np.abs(found["event"][0] - found["event"][1]).max() > 1e-4
    texts = [TextCondition(*(part[row : row + 1] for part in task)) for row in (0, 1)]
    chunks = [mode.act([history], text, key=KEY)[0].actions.actions for text in texts]
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-5


def test_a_chunk_without_a_past_is_an_event(trained, make_mode, embodiment, statistics):
    """A robot that has just started gets from unified mode, whose window has a slot for the past, what event mode says
    of an event as long as a chunk (1e-5: fp32 sums in another order): stage 5 starts from what stage 2 has learned."""
    window, seen = (
        ChunkSettings(frame_stride=2, history_latents=1, future_latents=1, text_length=16, spatial_compression=4),
        _observation(0, embodiment),
    )
    unified = UnifiedMode(*trained, embodiment, statistics, UnifiedModeSettings(2, window, SOLVER))
    history = unified.history()
    history.push(seen)
    batches = [
        condition_batch([seen], [window.steps], 2, 2, embodiment, statistics, _window((2,))),
        chunk_batch([history], 2, embodiment, statistics, window),
    ]
    generator, found = np.random.default_rng(1), []
    actions = generator.normal(size=(2, SOLVER.samples, window.steps, 26)).astype("f4")
    video = None
    for mode, batch in zip((make_mode((2,)), unified), batches, strict=True):
        given, _ = mode.programs.observe(batch, mode.programs.condition(["press"], 1), [0])
        if video is None:
            video = generator.normal(size=(2, 2, *given.observed.shape[2:])).astype("f4")
        else:
            video = np.concatenate([np.zeros_like(video[:, :1]), video], axis=1)
        noise = jnp.asarray(video), jnp.asarray(actions)
        found.append(mode.programs.denoise(video.shape[1], batch, given, noise, False)[0][0])
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    assert np.abs(found[0][:, embodiment.dof_mask]).max() > 1e-3
