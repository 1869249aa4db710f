"""The vision-language side: what reads what, and that decoding step by step is the whole pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.train.synthetic import LETTERS, random_batch, random_plan_batch
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.models.initialise import init_parameters, init_reasoner
from wallwm_jax.models.reasoner import Reasoner, patches
from wallwm_jax.models.reasoner_variants import reasoner_variant
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.objectives.world_action import action_loss_mask


@functools.cache
def setting():
    """(model, parameters, batch)."""
    model = Reasoner(reasoner_variant("micro"), variant("micro"), 2, LETTERS)
    batch = jax.tree.map(jnp.asarray, random_plan_batch(3))
    return model, init_reasoner(model, jax.random.key(0), batch)[0], batch


def call(method, *arguments, parameters=None):
    model, own, _ = setting()
    return model.apply({"params": parameters or own}, *arguments, method=method)


def test_decoding_with_cached_keys_is_the_whole_pass():
    """Prompt, then the caption token by token: the hidden states are those of one pass over both (fp32, 1e-5), though
    the prompt's padding stands between."""
    _, _, batch = setting()
    whole, _ = call("with_caption", batch)
    features = call("read", batch, batch.caption.shape[1])
    first = features.hidden.shape[2]
    for number in range(batch.caption.shape[1]):
        features, hidden = call("extend", features, batch.caption[:, number : number + 1], first + number)
        real = batch.caption_mask[:, number]
        np.testing.assert_allclose(hidden[real, 0], whole[real, first + number], atol=1e-5)


def test_padding_and_absent_views_have_no_influence():
    """Token ids behind a mask and pictures of absent views may be anything: nothing moves by a bit."""
    _, _, batch = setting()
    unread = {
        name: jnp.where(getattr(batch, f"{name}_mask"), getattr(batch, name), 7)
        for name in ("prompt", "caption", "trace", "text")
    }
    shown = batch.view_mask[..., None, None, None]
    other = batch._replace(views=jnp.where(shown, batch.views, 255).astype(jnp.uint8), **unread)
    (found, mask), (expected, _) = (call("with_caption", given) for given in (other, batch))
    np.testing.assert_array_equal(found[mask], expected[mask])
    latents, expected = (call("think", call("read", given)) for given in (other, batch))
    np.testing.assert_array_equal(latents, expected)
    scores, expected = (call("reconstruct", latents, given.trace, batch.trace_mask) for given in (other, batch))
    np.testing.assert_array_equal(scores[batch.trace_mask], expected[batch.trace_mask])


def test_conditioner_features_are_a_drop_in():
    """Shape, zeros and root mean square of the text encoder's own features, at initialisation already."""
    model, _, batch = setting()
    hidden, _ = call("with_caption", batch)
    found = call("condition", hidden[:, -batch.caption.shape[1] :], batch.caption_mask, batch.text_mask)
    expected = call("encode_text", batch.text, batch.text_mask)
    assert found.shape == expected.shape == (2, LETTERS, model.world.text_embed)
    assert not np.any(found[~batch.text_mask])
    squares = [np.mean(np.square(part[batch.text_mask]), -1) for part in (found, expected)]
    np.testing.assert_allclose(*squares, rtol=1e-3)


def test_gradients_reach_the_branch_through_the_latents():
    """Of something that reads the latents' text features: every part of the branch moves, by the amount that a central
    difference finds (2 %: fp32), and what is frozen is not even differentiated."""
    _, parameters, batch = setting()
    features = call("read", batch)

    @jax.jit
    @jax.value_and_grad
    def loss(branch):
        own = {**parameters, "staircase": branch}
        found, _ = call("condition_by_latents", call("think", features, parameters=own), parameters=own)
        return jnp.mean(jnp.sin(3.0 * found))

    branch = parameters["staircase"]
    _, gradient = loss(branch)
    for name, leaf in named_leaves(gradient).items():
        read = name.split("/")[0] not in ("prefix_norm", "prefix_up", "prefix_down") and "reach" not in name
        assert bool(jnp.any(leaf != 0)) == read, name
    direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape) / leaf.size**0.5, branch)
    along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    step = 1e-3
    ahead, behind = (loss(jax.tree.map(lambda p, d, s=s: p + s * d, branch, direction))[0] for s in (step, -step))
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=2e-2, atol=1e-5)


def test_the_action_loss_reaches_the_branch_through_the_latents():
    """Latents to text features, these to the video tower and the keyframe reader, and both to the action tower: the
    gradient of the actions' error moves every part of the branch on that way, as far as a central difference says (5 %:
    fp32 through two models)."""
    _, parameters, moments = setting()
    world, batch = WorldAction(variant("micro"), views=2), jax.tree.map(jnp.asarray, random_batch(5))
    own, _ = init_parameters(world, jax.random.key(4), batch)
    # Heads and gates start at zero and would hide what stands before them.
    own = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), own)
    latents_of = call("read", moments)
    noisy = jax.random.normal(jax.random.key(6), (2, 1, *batch.actions.shape[1:]))
    time = jnp.full((2, 1, 2), 0.5)

    @jax.jit
    def seen():
        frames = world.apply({"params": own}, batch.frames, method="encode_frames")
        keyframes = world.apply({"params": own}, batch, frames, method="keyframes")
        # No gradient passes through a sketch: it is the same for all texts here.
        text = world.apply({"params": own}, batch.text, batch.text_mask, method="encode_text")
        told = {"text_features": text, "text_mask": batch.text_mask}
        return frames, keyframes, world.apply({"params": own}, batch, keyframes, **told, method="foresee")

    frames, keyframes, sketch = seen()

    @jax.jit
    @jax.value_and_grad
    def loss(branch):
        whole = {**parameters, "staircase": branch}
        found, _ = call("condition_by_latents", call("think", latents_of, parameters=whole), parameters=whole)
        text, mask = jnp.stack([found, found], 1), batch.segment_mask[..., None] & jnp.ones((1, 1, LETTERS), bool)
        told, video = {"text_features": text, "text_mask": mask}, (batch, frames, keyframes, time[:, 0])
        _, features = world.apply({"params": own}, *video, **told, sketch=sketch, method="video")
        read, _ = world.apply({"params": own}, batch, **told, method="read_keyframes")
        predicted = world.apply({"params": own}, batch, noisy, time, found=read, features=features, method="action")
        valid = action_loss_mask(batch)[:, None]
        return jnp.sum(jnp.where(valid, (predicted - noisy + batch.actions[:, None]) ** 2, 0.0)) / jnp.sum(valid)

    branch = parameters["staircase"]
    _, gradient = loss(branch)
    for name, leaf in named_leaves(gradient).items():
        if name.split("/")[0] in ("branch", "project_out") and "reach" not in name:
            assert bool(jnp.any(leaf != 0)), name
    direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape) / leaf.size**0.5, branch)
    along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    step = 3e-3
    ahead, behind = (loss(jax.tree.map(lambda p, d, s=s: p + s * d, branch, direction))[0] for s in (step, -step))
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=5e-2, atol=1e-5)


def test_patches_are_squares_of_pixels():
    """Patch (row, column) holds the pixels of its own square, in [-1, 1]."""
    views = np.zeros((1, 1, 16, 16, 3), np.uint8)
    views[0, 0, 8:, :8] = 255
    found = patches(jnp.asarray(views), 8)
    assert found.shape == (1, 1, 2, 2, 192)
    np.testing.assert_array_equal(found.mean(-1)[0, 0], [[-1, -1], [1, -1]])
