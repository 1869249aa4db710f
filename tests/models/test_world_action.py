"""What the model must do whatever its parameters are: keep events apart, ignore what is masked, couple one way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

LAYOUTS = {"apart": [[0], [1], [2]], "packed": [[0, 1], [2], []]}
PACKED = LAYOUTS["packed"]
GARBAGE = 1e4


def test_packed_events_equal_separate_events(micro, samples, helpers):
    """Values and parameter gradients do not depend on which events share a row (fp32, 1e-5 of the scale)."""
    rng = np.random.default_rng(0)
    inputs = {name: helpers.lay_out(samples, rows, seed) for seed, (name, rows) in enumerate(LAYOUTS.items())}
    events = {
        name: helpers.of_events(samples, rows, micro.joint(micro.params, *inputs[name]))
        for name, rows in LAYOUTS.items()
    }
    for one, other in zip(jax.tree.leaves(events["apart"]), jax.tree.leaves(events["packed"]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(one).max())
    weights = jax.tree.map(lambda part: rng.normal(size=part.shape) / part.size, events["apart"])
    one, other = (
        micro.gradients(micro.params, *inputs[name], helpers.lay_out_outputs(samples, rows, weights))[0]
        for name, rows in LAYOUTS.items()
    )
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(one))
    assert scale > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale), one, other)


def test_whatever_is_masked_has_no_influence(micro, samples, inputs, helpers):
    """Garbage in masked slots, views, degrees of freedom, steps and text leaves every valid output bit-equal."""
    batch, noises = inputs
    rng = np.random.default_rng(5)

    def garbage(shape):
        return (GARBAGE * rng.normal(size=shape)).astype("f")

    real = (batch.frame_mask[..., None] & batch.view_mask)[:, :, None, :, None, None, None]
    dof = np.zeros((*batch.action_mask.shape, 26), bool)
    for row, ids in enumerate(batch.action_segment_ids):
        dof[row] = batch.dof_mask[row, np.maximum(ids - 1, 0)] & batch.action_mask[row][:, None]
    spoilt = batch._replace(
        frames=np.where(real, batch.frames, rng.integers(0, 256, batch.frames.shape).astype(np.uint8)),
        frame_times=np.where(batch.frame_mask, batch.frame_times, garbage(batch.frame_times.shape)),
        frame_positions=np.where(batch.frame_mask, batch.frame_positions, 3),
        actions=garbage(batch.actions.shape),
        action_times=np.where(batch.action_mask, batch.action_times, garbage(batch.action_times.shape)),
        state=np.where(batch.dof_mask, batch.state, garbage(batch.state.shape)),
        text=np.where(batch.text_mask, batch.text, 10**6),
        intrinsics=garbage(batch.intrinsics.shape),
        extrinsics=garbage(batch.extrinsics.shape),
    )
    cells = (batch.frame_mask[..., None] & batch.view_mask)[..., None, None, None]
    other = {
        "noisy_video": np.where(cells, noises["noisy_video"], garbage(noises["noisy_video"].shape)),
        "noisy_action": np.where(dof[:, None], noises["noisy_action"], garbage(noises["noisy_action"].shape)),
        "video_time": np.where(batch.segment_mask, noises["video_time"], 0.3).astype("f"),
        "action_time": np.where(batch.segment_mask[:, None], noises["action_time"], 0.3).astype("f"),
    }
    clean, dirty = micro.joint(micro.params, batch, noises), micro.joint(micro.params, spoilt, other)
    np.testing.assert_array_equal(np.where(cells, clean[0], 0), np.where(cells, dirty[0], 0))
    np.testing.assert_array_equal(np.where(batch.action_mask[:, None, :, None], clean[1], 0), dirty[1])
    np.testing.assert_array_equal(clean[2], dirty[2])
    assert np.all(np.asarray(clean[1])[~np.broadcast_to(dof[:, None], clean[1].shape)] == 0)


def test_coupling_is_one_way(micro, inputs):
    """No gradient flows from the video to the noisy actions; the actions depend on the noisy video."""
    outputs = micro.joint(micro.params, *inputs)
    weights = [tuple((1.0 + part) * (which == i) for i, part in enumerate(outputs)) for which in (0, 1)]
    of_video, of_action = (micro.gradients(micro.params, *inputs, own)[1] for own in weights)
    assert np.all(np.asarray(of_video["noisy_action"]) == 0) and np.all(np.asarray(of_video["action_time"]) == 0)
    assert np.abs(of_video["noisy_video"]).max() > 0
    assert np.abs(of_action["noisy_video"]).max() > 0 and np.abs(of_action["noisy_action"]).max() > 0


def test_two_passes_equal_the_joint_pass(micro, inputs, helpers):
    """Video alone, then actions on its cached features, give what the joint pass gives (fp32 sums in another order, of
    numbers up to a thousand that the randomised painter makes)."""
    batch, noises = inputs

    def separately(params):
        video, features = micro.video(params, batch, noises)
        found, _ = micro.apply(params, batch, **micro.text(params, batch), method="read_keyframes")
        inner = {"found": found, "features": features, "method": "action"}
        return video, micro.apply(params, batch, noises["noisy_action"], noises["action_time"], **inner)

    joint = micro.joint(micro.params, batch, noises)
    for one, other in zip(jax.jit(separately, compiler_options=helpers.QUICK)(micro.params), joint, strict=False):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_text_reaches_its_own_event_only(micro, samples, inputs, helpers):
    """Another caption changes its own event and no other; an event without text is deaf to every text parameter."""
    batch, noises = inputs
    other_text = batch._replace(text=np.where(np.arange(2)[:, None] == 0, batch.text[:, :, ::-1], batch.text))
    before = helpers.of_events(samples, PACKED, micro.joint(micro.params, batch, noises))
    after = helpers.of_events(samples, PACKED, micro.joint(micro.params, other_text, noises))
    assert np.abs(before[0][0] - after[0][0]).max() > 1e-4
    np.testing.assert_array_equal(before[1][0], after[1][0])

    def move_text(path, leaf):
        names = [getattr(key, "key", "") for key in path]
        return leaf + 0.5 if "text_encoder" in names or any(n.startswith("text") for n in names) else leaf

    moved = jax.tree_util.tree_map_with_path(move_text, micro.params)
    moved["duration"] = micro.params["duration"]
    changed = helpers.of_events(samples, PACKED, micro.joint(moved, batch, noises))
    jax.tree.map(np.testing.assert_array_equal, before[1], changed[1])
    assert np.abs(before[0][0] - changed[0][0]).max() > 1e-4


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 3e-2)])
def test_low_precision_stays_close(micro, inputs, helpers, dtype, tolerance):
    """Products in bf16 give finite outputs in fp32, within 3e-2 of their scale (eight bits of mantissa, two layers)."""
    batch, noises = inputs
    params = {**micro.fresh, "video": {**micro.fresh["video"], "head": micro.params["video"]["head"]}}
    params["action"] = {**micro.fresh["action"], "head": micro.params["action"]["head"]}
    exact = micro.joint(params, batch, noises)
    rough = helpers.Micro(dtype=jnp.dtype(dtype)).joint(params, batch, noises)
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(other)))
        assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(one)


def test_rematerialisation_changes_nothing(micro, inputs, helpers):
    """With and without remat the gradients agree to rounding."""
    weights = tuple(part / part.size for part in micro.joint(micro.params, *inputs))
    other = helpers.Micro(remat="branches")
    plain, again = (model.gradients(micro.params, *inputs, weights)[0] for model in (micro, other))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), plain, again)
