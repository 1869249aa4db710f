"""What the model is made of: one scan, declared parameters, branches that start as the identity, sizes as rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves, parameter_count
from wallwm_jax.models.initialise import abstract_inputs
from wallwm_jax.models.variants import VARIANTS, variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.towers import TowerBlock


def _with_heads(fresh, randomised):
    """Fresh parameters but for the two output heads, which start at zero and would hide everything."""
    return fresh | {tower: {**fresh[tower], "head": randomised[tower]["head"]} for tower in ("video", "action")}


def test_cross_view_branch_starts_as_the_identity(micro, inputs, helpers):
    """At initialisation the video equals the tower's without the branch; once trained (randomised), it does not."""
    batch, noises = inputs
    plain = helpers.Micro(cross_view=False)
    for params, identical in ((_with_heads(micro.fresh, micro.params), True), (micro.params, False)):
        video = np.asarray(micro.joint(params, batch, noises)[0])
        without = {**params, "blocks": {**params["blocks"], "video": dict(params["blocks"]["video"])}}
        del without["blocks"]["video"]["cross_view"]
        bare = np.asarray(plain.joint(without, batch, noises)[0])
        real = batch.frame_mask & batch.view_mask.all(-1)
        assert np.array_equal(video[real], bare[real]) == identical


def test_untrained_towers_see_one_view_at_a_time(blind, inputs):
    """At initialisation every view is what it is without the others (waypoints, which read all, apart); randomised, it
    is not."""
    batch, noises = inputs
    alone = batch._replace(view_mask=batch.view_mask & np.array([True, False]))
    for params, identical in ((_with_heads(blind.fresh, blind.params), True), (blind.params, False)):
        video, single = (np.asarray(blind.joint(params, given, noises)[0]) for given in (batch, alone))
        real = batch.frame_mask & batch.view_mask.all(-1)
        assert np.array_equal(video[real][:, 0], single[real][:, 0]) == identical


def test_heads_start_at_zero(micro, inputs, samples, helpers):
    """Untrained, the video model answers the keyframe, the action model no velocity, and the duration head one
    typical length for all."""
    batch, noises = inputs
    events = helpers.of_events(samples, [[0, 1], [2], []], micro.joint(micro.fresh, batch, noises))
    latents = micro.apply(micro.fresh, batch.frames, method="encode_frames")
    keyframe = np.asarray(latents[1, :1])
    sample = samples[2].arrays
    expected = (sample["noisy_video"] - keyframe) / sample["video_time"]
    # The other view is absent.
    np.testing.assert_allclose(events[2][0][1:, 0], expected[1:, 0], rtol=1e-4, atol=1e-4)
    assert not np.any(events[2][1])
    np.testing.assert_allclose([event[2] for event in events], np.log(20.0), rtol=1e-6)


def test_scan_equals_a_loop(micro, inputs):
    """The scanned stack is its block applied layer by layer to the unstacked parameters (1e-5)."""
    batch, noises = jax.tree.map(jnp.asarray, inputs)
    model, params = micro.model, micro.params

    def tokens_and_contexts(module):
        latents = module.encode_frames(batch.frames)
        text = {"text_features": module.encode_text(batch.text, batch.text_mask), "text_mask": batch.text_mask}
        given = text | {"sketch": module.foresee(batch, latents, **text), "sight_cones": False}
        video = module._begin_video(batch, noises["noisy_video"], latents, noises["video_time"], **given)
        found, _ = module.read_keyframes(batch, **text)
        action = module._begin_action(batch, noises["noisy_action"], noises["action_time"], found)
        tokens, contexts = (video.tokens, action.tokens), (video.context, action.context)
        scanned, _ = module.blocks(tokens, None, *contexts)
        return tokens, contexts, scanned, module.blocks((video.tokens, None), None, video.context, None)[1]

    block = TowerBlock(_sizes(model)[0], _sizes(model)[1])

    def both(params):
        tokens, contexts, scanned, features = model.apply({"params": params}, method=tokens_and_contexts)
        kept = []
        for layer in range(model.variant.layers):
            own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
            tokens, _ = block.apply({"params": own}, tokens, None, *contexts)
            kept.append(tokens[0])
        return (scanned, features), (tokens, jnp.stack(kept))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *jax.jit(both)(params))


def _sizes(model):
    """The sizes that the model gives its two kinds of blocks."""
    blocks = model.bind({"params": {}}).blocks
    return blocks.video_sizes, blocks.action_sizes


def test_every_parameter_is_declared_and_belongs_to_a_tower(micro):
    """Each declaration's axes match its array; groups are the five that freeze sets name; matrices go to Muon."""
    params, declared = named_leaves(micro.fresh), named_leaves(micro.declarations)
    assert set(micro.fresh) == {"text_encoder", "video", "action", "duration", "blocks"}
    assert set(micro.fresh["blocks"]) == {"video", "action"}
    for name, leaf in params.items():
        assert len(declared[name].axes) == leaf.ndim, name
        assert (declared[name].stack == ("layers",)) == ("/layers/" in name or name.startswith("blocks/")), name
        if leaf.ndim - len(declared[name].stack) >= 2:
            assert declared[name].is_matrix or declared[name].lookup, name
    muon = [name for name, one in declared.items() if one.optimizer == "muon"]
    assert "blocks/video/within_view/query/projection/weight" in muon and "video/head/weight" not in muon


def test_sight_cones_act_in_training_only_where_cameras_are_known(blind, inputs, helpers):
    """Unknown cameras make the flag a no-op; cameras that share no view cut the cross-view branch."""
    batch, noises = inputs
    turn = np.diag([-1.0, 1.0, -1.0])
    extrinsics = np.zeros((*batch.camera_mask.shape, 4, 4), "f")
    extrinsics[..., 0, :, :] = np.eye(4)
    extrinsics[..., 1, :, :] = np.eye(4)
    extrinsics[..., 1, :3, :3], extrinsics[..., 1, :3, 3] = turn, -turn @ np.array([0.0, 0.0, -1.0])
    focal = np.array([[40.0, 0, 8], [0, 40, 8], [0, 0, 1]], "f")
    intrinsics = np.broadcast_to(focal, (*batch.camera_mask.shape, 3, 3))
    known = batch._replace(camera_mask=np.ones_like(batch.camera_mask), intrinsics=intrinsics, extrinsics=extrinsics)
    run = jax.jit(lambda b: blind.video(blind.params, b, noises, True)[0], compiler_options=helpers.QUICK)
    joint = np.asarray(blind.joint(blind.params, batch, noises)[0])
    real = batch.frame_mask & batch.view_mask.all(-1)
    np.testing.assert_allclose(np.asarray(run(batch))[real], joint[real], rtol=1e-5, atol=1e-5)
    alone = batch._replace(view_mask=batch.view_mask & np.array([True, False]))
    single = np.asarray(blind.joint(blind.params, alone, noises)[0])
    back_to_back = np.asarray(run(known))
    np.testing.assert_allclose(back_to_back[real][:, 0], single[real][:, 0], rtol=1e-5, atol=1e-5)
    assert np.abs(joint[real][:, 0] - single[real][:, 0]).max() > 1e-3


def test_a_clean_prediction_is_what_remains_of_the_keyframe_and_what_came(micro, inputs):
    """A head of zeros predicts the event's own keyframe; `gone` = 1 leaves nothing of it, only the change."""
    batch, noises = inputs
    latents = np.asarray(micro.apply(micro.fresh, batch.frames, method="encode_frames"))
    rows, future = np.arange(len(latents))[:, None], batch.frame_mask & (batch.frame_positions > 0)
    future = future[..., None] & batch.view_mask
    keyframe = latents[rows, np.maximum(np.arange(latents.shape[1]) - batch.frame_positions, 0)]
    time = noises["video_time"][rows, np.maximum(batch.frame_segment_ids - 1, 0)][..., None, None, None, None]

    def clean(change, gone):
        bias = np.full((micro.model.variant.patch**2, micro.model.variant.channels + 1), change, "f")
        bias[:, -1] = gone
        head = {**micro.fresh["video"]["head"], "bias": jnp.asarray(bias.reshape(-1))}
        params = {**micro.fresh, "video": {**micro.fresh["video"], "head": head}}
        return np.asarray(noises["noisy_video"] - time * micro.joint(params, batch, noises)[0])[future]

    np.testing.assert_allclose(clean(0.0, 0.0), keyframe[future], atol=1e-4)
    np.testing.assert_allclose(clean(0.3, 0.25), 0.75 * keyframe[future] + 0.3, atol=1e-4)
    np.testing.assert_allclose(clean(0.3, 1.0), np.full_like(keyframe[future], 0.3), atol=1e-4)


def test_frames_survive_the_latents(micro):
    """decode(encode) of frames that lie in the kept bands is the identity, in 0..255, with axes in their places."""
    small = np.random.default_rng(0).integers(0, 256, (1, 2, 1, 2, 8, 8, 3), dtype=np.uint8)
    frames = jnp.asarray(np.kron(small, np.ones((1, 1, 4, 1, 2, 2, 1), np.uint8)))
    latents = micro.apply(micro.fresh, frames, method="encode_frames")
    np.testing.assert_allclose(micro.apply(micro.fresh, latents, method="decode_frames"), frames, atol=0.05)


class Joint(nn.Module):
    """A frame for NNX, which would otherwise take the parameter group `video` for the method `video`."""

    model: WorldAction

    def __call__(self, *inputs):
        return self.model(*inputs)


def test_runs_as_an_nnx_module(micro, inputs):
    """`flax.nnx.bridge.ToNNX` wraps the model: same outputs, and parameters that keep their declaration."""
    batch, noises = jax.tree.map(jnp.asarray, inputs)
    given = (noises["noisy_video"], noises["noisy_action"], noises["video_time"], noises["action_time"])

    def bridge():
        return nnx.bridge.ToNNX(Joint(micro.model), rngs=nnx.Rngs(0))

    wrapped = nnx.eval_shape(lambda: bridge().lazy_init(batch, *given))
    nnx.update(wrapped, nnx.state(bridge()))
    state = nnx.state(wrapped, nnx.Param)
    weight = state["model"]["video"]["embedding"]["weight"]
    assert weight.get_metadata()["declaration"] == "patch -> embed @adamw"
    assert parameter_count(nnx.to_pure_dict(state)) == parameter_count(micro.params)
    nnx.replace_by_pure_dict(state, {"model": micro.params})
    nnx.update(wrapped, state)
    outputs = nnx.jit(lambda model: model(batch, *given))(wrapped)
    for one, other in zip(outputs, micro.joint(micro.params, batch, noises), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, parts, count, tolerance",
    [
        ("tiny", None, 6.0e6, 0.1),
        ("wan2.1-1.3b", ("video",), 1.42e9, 0.02),
        ("wan2.2-5b", ("video",), 5.0e9, 0.02),
        ("wan2.1-14b", ("video",), 14.3e9, 0.02),
    ],
)
def test_sizes_are_as_published(inputs, name, parts, count, tolerance):
    """The tiny model has about 6 M parameters; without cross-view attention the Wan rows have Wan's numbers."""
    model = WorldAction(VARIANTS[name], 2, cross_view=name == "tiny")
    frames = np.zeros((*inputs[0].frames.shape[:4], 96, 96, 3), np.uint8)
    cells = 96 // (model.variant.codec.spatial_compression if model.variant.codec else 8)
    borders = np.ones((*inputs[0].border_mask.shape[:3], cells, cells), bool)
    shapes = jax.eval_shape(lambda: _parameters(model, inputs[0]._replace(frames=frames, border_mask=borders)))
    if parts is None:
        assert abs(parameter_count(shapes) - count) <= tolerance * count
    else:
        video = parameter_count(shapes["video"]) + parameter_count(shapes["blocks"]["video"])
        assert abs(video - count) <= tolerance * count


def _parameters(model, batch):
    return model.init(jax.random.key(0), *abstract_inputs(model, jax.tree.map(jnp.asarray, batch)))["params"]


def test_unknown_sizes_are_refused(micro, inputs):
    """An unknown row, field or an impossible width names itself."""
    with pytest.raises(InputError, match=r"model\.variant"):
        variant("huge")
    with pytest.raises(InputError, match=r"model\.overrides"):
        variant("tiny", {"width": 3})
    with pytest.raises(InputError, match=r"variant\.reader: found .* expected none without a codec"):
        variant("wan2.1-1.3b", {"reader": (8,)})
    with pytest.raises(InputError, match=r"variant\.arms"):
        variant("tiny", {"arms": (2,)})
    with pytest.raises(InputError, match=r"variant\.embed"):
        variant("tiny", {"embed": 30, "heads": 4})
