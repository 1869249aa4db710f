"""Staircase decoding: the parallel pass is the staircase, causal, and differentiable."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.flops import matmul_flops
from wallwm_jax.nn.parameters import unbox
from wallwm_jax.nn.staircase import SCHEDULES, Staircase, StaircaseSizes, staircase_flops, wavefront
from wallwm_jax.nn.vision_language import VisionLanguageSizes, VisionLanguageTrunk

SIZES = VisionLanguageSizes(layers=5, embed=16, heads=4, key_heads=2, mlp=24, sections=(1, 1, 0), vocabulary=11)
RELAY, LATENTS = 3, 4


@functools.cache
def setting():
    """A random trunk that has read two prompts of different lengths, and a random branch."""
    trunk = VisionLanguageTrunk(sizes=SIZES)
    text = jax.random.randint(jax.random.key(0), (2, 6), 0, 11)
    mask = jnp.arange(6) < jnp.array([[6], [4]])
    parameters = unbox(trunk.init(jax.random.key(1), None, None, text, mask))["params"]
    features = trunk.apply({"params": parameters}, None, None, text, mask, method="read")
    branch = Staircase(sizes=StaircaseSizes(trunk=SIZES, relay_depth=RELAY, latents=LATENTS))
    own = unbox(branch.init(jax.random.key(2), features, parameters["blocks"], method="think"))["params"]
    # Larger slots than at initialisation, so that latents differ clearly.
    own["slots"] = jax.random.normal(jax.random.key(3), own["slots"].shape)
    return trunk, parameters, features, branch, own


def latents(own, features, schedule="staircase"):
    _, parameters, _, branch, _ = setting()
    return branch.apply({"params": own}, features, parameters["blocks"], schedule, method="think")


def test_the_parallel_pass_equals_the_wavefront():
    """One causal pass gives what tick-by-tick evaluation of the same graph gives."""
    _, parameters, features, branch, own = setting()
    relay = branch.apply({"params": own}, features, parameters["blocks"], method="_relay_state")
    ticks = wavefront(branch, own["branch"], relay + own["slots"][None], features)
    ticks = branch.apply({"params": own}, ticks, method=lambda module, x: module.norm(x))
    np.testing.assert_allclose(latents(own, features), ticks, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_prompt_embeddings_and_a_mask_are_enough(schedule):
    """The call on plain arrays gives what `think` gives after the trunk itself has read the prompt (fp32, another order
    of compilation: 1e-5), and no padding of the prompt moves it by a bit, not even numbers that are not finite."""
    _, parameters, features, branch, own = setting()
    prompt, mask, blocks = features.hidden[0], features.mask, parameters["blocks"]

    def of(prompt):
        return branch.apply({"params": own}, prompt, mask, blocks, schedule=schedule)

    np.testing.assert_allclose(of(prompt), latents(own, features, schedule), atol=1e-5)
    assert not mask.all()
    np.testing.assert_array_equal(of(prompt), of(jnp.where(mask[..., None], prompt, jnp.nan)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_latent_depends_on_no_later_one(schedule):
    """By gradient: latent k does not move with slot j > k; with slot j < k it does, unless they are independent."""
    _, _, features, _, own = setting()

    def of(slots):
        return latents({**own, "slots": slots}, features, schedule).sum((0, 2))

    # [K outputs, K slots]
    influence = jnp.abs(jax.jacobian(of)(own["slots"])).sum(-1)
    later = np.triu(np.ones((LATENTS, LATENTS), bool), 1)
    assert np.all(np.asarray(influence)[later] == 0)
    earlier = np.asarray(influence)[later.T]
    assert np.all(earlier == 0) if schedule == "independent" else np.all(earlier > 1e-6)
    assert np.all(np.diag(influence) > 1e-6)


def test_padding_of_the_prompt_has_no_influence():
    """A prompt's padding may hold anything; the latents do not move by a bit."""
    trunk, parameters, _, branch, own = setting()
    text = jax.random.randint(jax.random.key(0), (2, 6), 0, 11)
    mask = jnp.arange(6) < jnp.array([[6], [4]])

    def of(text, schedule):
        features = trunk.apply({"params": parameters}, None, None, text, mask, method="read")
        return branch.apply({"params": own}, features, parameters["blocks"], schedule, method="think")

    for schedule in SCHEDULES:
        np.testing.assert_array_equal(of(text, schedule), of(jnp.where(mask, text, 7), schedule))


def test_schedules_share_parameters_and_differ():
    """The three schedules read one parameter tree and compute three different things; the first latent of the two
    parallel ones is the same."""
    _, _, features, _, own = setting()
    staircase, serial, independent = (latents(own, features, schedule) for schedule in SCHEDULES)
    assert jnp.abs(staircase - serial).max() > 1e-3 and jnp.abs(staircase - independent).max() > 1e-3
    np.testing.assert_allclose(staircase[:, 0], independent[:, 0], atol=1e-6)


def test_bad_settings_are_refused():
    """A relay depth outside the trunk and an unknown schedule are named."""
    _, _, features, _, own = setting()
    with pytest.raises(InputError, match="relay_depth"):
        StaircaseSizes(trunk=SIZES, relay_depth=SIZES.layers, latents=LATENTS)
    with pytest.raises(InputError, match="schedule"):
        latents(own, features, "stairs")


def test_gradients_match_finite_differences():
    """Of a scalar of the latents, with respect to every kind of branch parameter (a central
    difference in fp32 with this step is good to about 1 %; the relay's own size is 0.02, so that it bends soon)."""
    _, _, features, _, own = setting()
    target = jax.random.normal(jax.random.key(5), (2, LATENTS, SIZES.embed))

    def loss(own):
        return jnp.mean((latents(own, features) - target) ** 2)

    gradient = jax.grad(loss)(own)
    direction = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape) / leaf.size**0.5, own
    )
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.vdot(g, d), gradient, direction)))
    step = 5e-4
    ahead, behind = (
        loss(jax.tree.map(lambda p, d, sign=sign: p + sign * step * d, own, direction)) for sign in (1, -1)
    )
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=2e-2, atol=1e-5)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_work_is_what_the_formula_says(schedule):
    """Counted in the traced program: the layers below the relay depth run once for all latents, except in `serial`."""
    _, _, features, branch, own = setting()
    counted = matmul_flops(lambda own: latents(own, features, schedule), own)
    assert counted == features.mask.shape[0] * staircase_flops(branch.sizes, features.mask.shape[1], schedule)
