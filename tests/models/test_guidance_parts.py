"""The guidance's parts one by one: a part that is off has no parameters; without all of them the model is the paper's,
and its towers are the standalone networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.rng import stream
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.models import standalone
from wallwm_jax.models.initialise import abstract_parameters, init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.guidance.guidance import ACTION_PARTS, VIDEO_PARTS
from wallwm_jax.objectives.world_action import ActionSettings, VideoSettings, action_loss, video_loss

OWN = {
    "keyframe_reader": ("action/keyframe_reader", "action/found"),
    "waypoints": ("video/waypoint_head", "video/painter"),
    "painter": ("video/painter",),
    "duration": ("duration",),
    "patch_place": ("action/video_place",),
    "clock": ("action/clock", "action/video_clock"),
}
PAPER = dict.fromkeys(OWN, False)


def shapes_of(overrides):
    """(name -> shape) of the micro model with these overrides."""
    parameters, _ = abstract_parameters(WorldAction(variant("micro", overrides), views=2), random_batch(0))
    return {name: leaf.shape for name, leaf in named_leaves(parameters).items()}


@pytest.mark.parametrize("part", OWN)
def test_a_part_that_is_off_has_no_parameters_and_no_loss(part):
    """Exactly its own are gone; only the video tower's inputs may become fewer. Both losses are defined without it."""
    whole, without = shapes_of({}), shapes_of({part: False})
    gone = {name for name in whole if name not in without}
    assert gone == {name for name in whole if name.startswith(OWN[part])} and gone and set(without) <= set(whole)
    changed = {name for name, shape in without.items() if shape != whole[name]}
    assert changed <= {"video/embedding/weight"}
    model, batch = WorldAction(variant("micro", {part: False}), views=2), random_batch(0)
    parameters, _ = abstract_parameters(model, batch)
    for loss, settings in ((video_loss, VideoSettings()), (action_loss, ActionSettings(draws=2))):
        value, metrics = jax.eval_shape(lambda p, loss=loss, settings=settings: loss(
            model, p, jax.tree.map(jnp.asarray, batch), stream(0, "test"), settings), parameters)  # fmt: skip
        assert value.shape == ()
        assert ("duration_loss" in metrics) == (part != "duration" and loss is action_loss)
        assert ("waypoint_loss" in metrics) == (part != "waypoints" and loss is video_loss)


@pytest.mark.parametrize("overrides", [{}, PAPER])
def test_the_towers_parameters_are_those_of_the_standalone_networks(overrides):
    """The same names and shapes, there and back."""
    model = WorldAction(variant("micro", overrides), views=2)
    parameters, _ = abstract_parameters(model, random_batch(0))
    video, action = standalone.video_dit(model), standalone.action_dit(model)
    row, f32, flags = model.variant, jnp.zeros, lambda *shape: jnp.zeros(shape, bool)
    noisy, guides = f32((1, 3, 2, 4, 4, row.channels)), f32((1, 3, 2, 4, 4, video.sizes.guides))
    given = {"text_mask": flags(1, 1, 5), "view_mask": flags(1, 3, 2), "observed": noisy, "observed_mask": flags(1, 3)}
    given["guides"] = guides if video.sizes.guides else None
    key = jax.random.key(0)
    inputs = noisy, f32((1, 1)), f32((1, 1, 5, row.text_embed))
    of_video = jax.eval_shape(lambda: video.init(key, *inputs, **given)["params"])
    given = {"state": f32((1, 1, 26)), "dof_mask": flags(1, 1, 26), "action_mask": flags(1, 8)}
    given |= {"view_mask": flags(1, 3, 2), "action_frames": jnp.zeros((1, 8), int)}
    inputs = f32((1, 2, 8, 26)), f32((1, 2, 1)), f32((row.layers, 1, 3, 2, 4, row.embed))
    of_action = jax.eval_shape(lambda: action.init(key, *inputs, **given)["params"])
    parts = standalone.video_parameters(parameters), standalone.action_parameters(parameters)
    for found, expected in zip(parts, (of_video, of_action), strict=True):
        sizes = [{name: leaf.shape for name, leaf in _plain(tree).items()} for tree in (found, expected)]
        assert sizes[0] == sizes[1]
    assert standalone.with_towers(parameters, video=parts[0], action=parts[1]) == parameters
    names = {*parameters["video"], *parameters["action"]} & {*VIDEO_PARTS, *ACTION_PARTS}
    assert names == (set() if overrides else {*VIDEO_PARTS, *ACTION_PARTS})


def _plain(tree):
    return {name.removesuffix("/value"): leaf for name, leaf in named_leaves(tree).items()}


def test_the_papers_joint_pass_is_the_two_networks_one_after_the_other():
    """Without guidance: the joint model's velocities are those of the standalone video network, and of the standalone
    action network on its features (1e-5: fp32 sums in another order)."""
    model = WorldAction(variant("micro", PAPER | {"prediction": "velocity"}), views=2)
    batch = jax.tree.map(jnp.asarray, random_batch(2))
    fresh, _ = init_parameters(model, jax.random.key(0), batch)
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape).astype("f"), fresh)
    noisy, actions = (generator.normal(size=shape).astype("f") for shape in ((2, 4, 2, 4, 4, 24), (2, 2, 12, 26)))
    times = (
        jnp.asarray(generator.uniform(0.2, 1, (2, 2)), "f4"),
        jnp.asarray(generator.uniform(0.2, 1, (2, 2, 2)), "f4"),
    )
    noisy, actions = jnp.asarray(noisy), jnp.asarray(actions)

    @jax.jit
    def joint(params):
        return model.apply({"params": params}, batch, noisy, actions, *times)

    @jax.jit
    def apart(params):
        latents = model.apply({"params": params}, batch.frames, method="encode_frames")
        text = model.apply({"params": params}, batch.text, batch.text_mask, method="encode_text")
        seen = {"view_mask": batch.view_mask, "segment_ids": batch.frame_segment_ids}
        video, features = standalone.video_dit(model).apply(
            {"params": standalone.video_parameters(params)}, noisy, times[0], text, text_mask=batch.text_mask,
            observed=latents, observed_mask=batch.observed_mask, frame_positions=batch.frame_positions, **seen,
        )  # fmt: skip
        action = standalone.action_dit(model).apply(
            {"params": standalone.action_parameters(params)}, actions, times[1], features, state=batch.state,
            dof_mask=batch.dof_mask, action_mask=batch.action_mask, action_frames=batch.action_frames,
            action_segment_ids=batch.action_segment_ids, action_positions=batch.action_positions,
            video_frames=batch.frame_positions, **seen,
        )  # fmt: skip
        return video, action

    together, separate = joint(params), apart(params)
    assert together.log_steps is None
    real = batch.frame_mask[..., None, None, None, None]
    np.testing.assert_allclose(
        jnp.where(real, together.video, 0), jnp.where(real, separate[0], 0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(together.action, separate[1], rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(together.action).max()) > 1e-2
