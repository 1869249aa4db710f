"""Stage 5's loss on the "micro" model: both towers learn, masked history has no influence, what stays frozen stays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.rng import stream, substream
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.objectives.world_action import (
    ActionSettings,
    AdaptationSettings,
    VideoSettings,
    adaptation_loss,
    video_loss,
)
from wallwm_jax.optim import freeze

MODEL = WorldAction(variant("micro"), views=2)
SETTINGS = AdaptationSettings(VideoSettings(caption_drop=None), ActionSettings(draws=2), action_weight=2.0)
TRAINED = {"video", "action"}
KEY = stream(0, "test")


def windows(seed, missing=0):
    """Rows of one observation-centred window (M = 2, N = 1), `missing` of its history masked."""
    batch = random_batch(seed)
    slots, steps = np.arange(4), np.arange(batch.actions.shape[1])
    there, acting = np.tile(slots >= missing, (2, 1)), np.tile(steps < 4, (2, 1))
    own = np.array([[True, False]] * 2)
    return batch._replace(
        frame_segment_ids=there.astype(np.int32),
        frame_positions=np.where(there, slots, 0).astype(np.int32),
        frame_times=np.where(there, (slots - 2) * 0.2, 0).astype(np.float32),
        frame_mask=there,
        observed_mask=there & (slots <= 2),
        view_mask=np.repeat(there[..., None], 2, axis=2),
        action_segment_ids=acting.astype(np.int32),
        action_positions=np.where(acting, steps, 0).astype(np.int32),
        action_frames=np.where(acting, 3, 0).astype(np.int32),
        action_mask=acting,
        segment_mask=own,
        dof_mask=batch.dof_mask[:1, :1] & own[..., None],
        text_mask=batch.text_mask & own[..., None],
        anchor_positions=np.array([[2, 0]] * 2, np.int32),
    )


@pytest.fixture(scope="module")
def parameters():
    """Parameters off their initial zeros, so that every branch matters."""
    fresh, _ = init_parameters(MODEL, jax.random.key(0), windows(0))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 0.05 * generator.normal(size=leaf.shape).astype("f"), fresh)


@pytest.fixture(scope="module")
def evaluate(parameters):
    """((loss, metrics), gradients of the towers that stage 5 trains), with fixed randomness."""
    trained, frozen = freeze.split(parameters, TRAINED)

    def loss(part, others, batch, through):
        settings = dataclasses.replace(SETTINGS, through_features=through)
        return adaptation_loss(MODEL, freeze.merge(part, others), batch, KEY, settings)

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=3)
    return lambda batch, through=False: compiled(trained, frozen, batch, through)


@pytest.fixture(scope="module")
def video_alone(parameters):
    """The video part of the loss, with the gradient of every tower."""

    def loss(params, batch):
        return video_loss(MODEL, params, batch, substream(KEY, "video"), SETTINGS.video)[0]

    compiled = jax.jit(jax.value_and_grad(loss))
    return lambda batch: compiled(parameters, batch)


def _sizes(gradients):
    groups = {name: part for name, part in gradients.items() if name != "blocks"}
    groups |= {f"blocks/{name}": part for name, part in gradients["blocks"].items()}
    return {name: sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(part)) for name, part in groups.items()}


def test_both_towers_learn_and_nothing_else(evaluate):
    """Gradients of both towers are not zero; text encoder and duration head have none to be moved by. The loss is the
    sum of its parts."""
    (loss, metrics), gradients = evaluate(windows(1))
    sizes = _sizes(gradients)
    assert set(sizes) == {"video", "action", "blocks/video", "blocks/action"} and all(sizes.values())
    video, action = SETTINGS.video.waypoint_weight, SETTINGS.action.gaze_weight
    weights = {"video_loss": 1.0, "waypoint_loss": video, "gaze_loss": video, "sketch_loss": video}
    weights |= {"action_loss": 2.0, "action_gaze_loss": 2.0 * action}
    assert float(loss) == pytest.approx(sum(float(metrics[name]) * weights[name] for name in weights), rel=1e-5)
    assert float(metrics["events"]) == 2


def test_masked_history_has_no_influence(evaluate):
    """Garbage in history that does not exist: the same loss and gradients, bit for bit. Where it exists, it counts."""
    generator = np.random.default_rng(2)
    for missing, same in ((1, True), (2, True), (0, False)):
        batch = windows(2, missing)
        frames, times = batch.frames.copy(), batch.frame_times.copy()
        frames[:, : max(missing, 1)] = generator.integers(0, 256, frames[:, : max(missing, 1)].shape)
        times[:, : max(missing, 1)] = 50.0
        one, other = evaluate(batch), evaluate(batch._replace(frames=frames, frame_times=times))
        assert (float(one[0][0]) == float(other[0][0])) == same
        if same:
            jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


def test_observed_slots_are_no_targets(video_alone):
    """The video loss of a batch whose slots are all given is exactly zero, and so is its gradient."""
    batch = windows(3)
    value, gradients = video_alone(batch._replace(observed_mask=batch.frame_mask))
    assert float(value) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_the_action_loss_trains_the_video_tower_only_if_told_to(evaluate, video_alone):
    """The video tower's gradient is that of the video loss alone (1e-5 of its scale: another program, other sums), and
    something else with `through_features`."""
    batch = windows(4)
    alone = jax.tree.leaves(video_alone(batch)[1]["blocks"]["video"])
    scale = max(float(jnp.abs(leaf).max()) for leaf in alone)
    for through, same in ((False, True), (True, False)):
        joint = jax.tree.leaves(evaluate(batch, through)[1]["blocks"]["video"])
        gap = max(float(jnp.abs(a - b).max()) for a, b in zip(alone, joint, strict=True))
        assert (gap <= 1e-5 * scale) == same


def test_evaluation_conditions_are_those_of_inference():
    """Both parts' settings change as they do in their own stages; the rest is kept."""
    changed = SETTINGS.for_evaluation()
    assert changed.video == SETTINGS.video.for_evaluation() and changed.action == SETTINGS.action.for_evaluation()
    assert changed == dataclasses.replace(SETTINGS, video=changed.video, action=changed.action)
