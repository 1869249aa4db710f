"""The losses of stages 1 and 2 on the "micro" model: what masks exclude has no influence; nothing flows back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.rng import stream
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.objectives.world_action import ActionSettings, VideoSettings, action_loss, video_loss

MODEL = WorldAction(variant("micro"), views=2)
VIDEO = VideoSettings()
ACTION = ActionSettings(draws=2, dct_weight=0.1, regressed="clean")
LOSSES = {"video": (video_loss, VIDEO), "action": (action_loss, ACTION)}


@pytest.fixture(scope="module")
def parameters():
    """Parameters off their initial zeros, so that every branch matters."""
    fresh, _ = init_parameters(MODEL, jax.random.key(0), random_batch(0))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 0.05 * generator.normal(size=leaf.shape).astype("f"), fresh)


@pytest.fixture(scope="module")
def evaluate(parameters):
    """(loss, gradients) of a stage on a batch, with fixed randomness; compiled once a stage."""
    compiled = {}
    for name, (objective, chosen) in LOSSES.items():

        def loss(params, batch, objective=objective, chosen=chosen):
            return objective(MODEL, params, batch, stream(0, "test"), chosen)[0]

        compiled[name] = jax.jit(jax.value_and_grad(loss))
    return lambda name, batch: compiled[name](parameters, batch)


def _garbage(seed, values, mask):
    """`values` with other content where `mask` is False."""
    noise = np.random.default_rng(seed).normal(size=values.shape) * 50
    noise = np.clip(np.abs(noise), 0, 255) if values.dtype == np.uint8 else noise
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
    return np.where(mask, values, noise.astype(values.dtype))


def _assert_same(first, second):
    assert float(first[0]) == float(second[0])
    jax.tree.map(np.testing.assert_array_equal, first[1], second[1])


@pytest.mark.parametrize("name", LOSSES)
def test_masked_steps_dof_slots_and_text_have_no_influence(name, evaluate):
    """Other content in padded action steps, absent degrees of freedom, padded slots and unread text: the same bits."""
    batch = random_batch(3)
    batch = batch._replace(effector_mask=batch.effector_mask & (np.arange(4) != 1)[:, None])
    dof = np.take_along_axis(batch.dof_mask, np.maximum(batch.action_segment_ids - 1, 0)[..., None], 1)
    changed = batch._replace(
        actions=_garbage(1, batch.actions, batch.action_mask[..., None] & dof),
        state=_garbage(2, batch.state, batch.dof_mask),
        frames=_garbage(3, batch.frames, batch.frame_mask),
        text=np.where(batch.text_mask, batch.text, 7).astype(np.int32),
        effectors=_garbage(4, batch.effectors, batch.effector_mask),
    )
    assert not np.array_equal(changed.frames, batch.frames) and not np.array_equal(changed.actions, batch.actions)
    _assert_same(evaluate(name, batch), evaluate(name, changed))


@pytest.mark.parametrize("name", LOSSES)
def test_an_absent_view_has_no_influence(name, evaluate):
    """With the second camera masked, its pixels change neither loss nor gradients; unmasked, they change the loss."""
    batch = random_batch(4)
    view = np.zeros_like(batch.view_mask)
    view[:, :, 0] = True
    shown = np.moveaxis(batch.frames, 3, 2)
    other = np.moveaxis(_garbage(5, shown, view), 2, 3)
    absent = batch._replace(view_mask=view)
    _assert_same(evaluate(name, absent), evaluate(name, absent._replace(frames=other)))
    assert float(evaluate(name, batch)[0]) != float(evaluate(name, batch._replace(frames=other))[0])


def test_bordered_cells_are_no_targets(evaluate):
    """The video loss is the mean over border-free cells alone: split in two halves, the halves' means average to it."""
    batch = random_batch(5)
    left = np.zeros_like(batch.border_mask)
    left[..., :2] = True
    halves = [float(evaluate("video", batch._replace(border_mask=mask))[0]) for mask in (left, ~left)]
    assert halves[0] != halves[1]
    assert np.mean(halves) == pytest.approx(float(evaluate("video", batch)[0]), rel=1e-5)


def test_stage_gradients_reach_their_towers_and_no_others(evaluate):
    """Stage 2 gives exactly zero gradient to the video tower and text encoder; stage 1 none to action and duration."""
    sizes = {}
    for name in LOSSES:
        _, gradients = evaluate(name, random_batch(6))
        groups = {**gradients, **{f"blocks/{tower}": part for tower, part in gradients["blocks"].items()}}
        sizes[name] = {key: sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(part)) for key, part in groups.items()}
    video, action = ("video", "blocks/video", "text_encoder"), ("action", "blocks/action", "duration")
    assert all(sizes["video"][key] > 0 for key in video) and all(sizes["video"][key] == 0 for key in action)
    assert all(sizes["action"][key] > 0 for key in action) and all(sizes["action"][key] == 0 for key in video)


def test_evaluation_conditions_are_those_of_inference():
    """No sight cones, no dropped captions, no jitter, even times, the model's own waypoints, and the flow's loss alone;
    everything else is kept."""
    video, action = (dataclasses.replace(settings, time_shift=3.0) for settings in (VIDEO, ACTION))
    untaught = {"waypoint_weight": 0.0, "taught": False}
    assert video.for_evaluation() == VideoSettings(sight_cones=False, caption_drop=None, **untaught)
    kept = {"draws": 2, "dct_weight": 0.1, "regressed": "clean"}
    assert action.for_evaluation() == ActionSettings(**kept, anchor_jitter=0.0, gaze_weight=0.0)


def test_taught_events_are_drawn_from_their_true_waypoints(parameters):
    """With `taught`, other true places change the flow's loss itself; without, and in evaluation, they do not."""
    batch = random_batch(7)
    other = batch._replace(effectors=-batch.effectors)

    @functools.partial(jax.jit, static_argnums=2)
    def flow_loss(params, given, taught):
        settings = dataclasses.replace(VIDEO, taught=taught)
        return video_loss(MODEL, params, given, stream(0, "test"), settings)[1]["video_loss"]

    one, two = ([float(flow_loss(parameters, given, taught)) for given in (batch, other)] for taught in (True, False))
    assert one[0] != one[1] and two[0] == two[1]
    assert VIDEO.taught and not VIDEO.for_evaluation().taught
