"""A model whose flow is known: every path ends at a latent and an action that its inputs determine."""

import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.types import Observation
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.statistics import Statistics

VIEWS, SIZE = 2, 16


class KnownFlow:
    """Velocity (z - end) / t, whose Euler solution lands on `end` exactly.

    Latents are cell means of a slot's last frame in [0, 1]. The dream's end f slots after the anchor is the anchor plus
    0.1 f, and a quarter of every history latent; the action's end is the state plus what the caption finds (its
    number of tokens / 100) plus the mean feature. Features are the noisy
    latents times `feature_scale`, plus the time, so that what the action reads, and when, can be told from the result.
    """

    def __init__(self, feature_scale=0.0):
        self.feature_scale, self.calls = feature_scale, []

    def apply(self, variables, *arguments, method, **named):
        return getattr(self, method)(*arguments, **named)

    def encode_frames(self, frames):
        cells = frames.reshape(*frames.shape[:4], SIZE // 8, 8, SIZE // 8, 8, 3).astype(jnp.float32)
        return cells[:, :, -1].mean(axis=(4, 6)) / 255.0

    def decode_frames(self, latents):
        pixels = jnp.repeat(jnp.repeat(latents, 8, axis=3), 8, axis=4) * 255.0
        return jnp.repeat(pixels[:, :, None], 4, axis=2)

    def encode_text(self, text, text_mask):
        return text_mask[..., None].astype(jnp.float32)

    def video(self, batch, noisy, keyframes, time, *, text_features, text_mask, sketch, sight_cones=False):
        assert sight_cones is False
        self.calls.append("video")
        anchor = batch.anchor_positions[:, 0]
        ahead = (batch.frame_positions - anchor[:, None])[..., None, None, None, None]
        present = keyframes[jnp.arange(len(anchor)), anchor][:, None]
        before = (batch.observed_mask & (ahead[..., 0, 0, 0, 0] < 0))[..., None, None, None, None]
        past = jnp.where(before, keyframes, 0.0).sum(axis=1, keepdims=True)
        end = present + 0.1 * ahead + 0.25 * past
        at = time[:, 0][:, None, None, None, None, None]
        values = self.feature_scale * noisy + at
        features = values.reshape(1, *values.shape[:3], -1, values.shape[-1])
        return (noisy - end) / jnp.maximum(at, 1e-6), features

    def read_keyframes(self, batch, *, text_features, text_mask):
        return text_mask.sum(axis=2)[..., None] / 100.0, None

    def foresee(self, batch, observed, *, text_features, text_mask):
        return None

    def action(self, batch, noisy, time, *, found, features):
        self.calls.append("action")
        mean = features.mean(axis=(0, 2, 3, 4, 5))[:, None, None, None]
        end = batch.state[:, :, None] + found[:, :, None] + mean
        return (noisy - end) / jnp.maximum(time[..., None], 1e-6)

    def duration(self, batch, keyframes, *, text_features, text_mask):
        return jnp.log(text_mask.sum(axis=2).astype(jnp.float32))


@pytest.fixture(scope="module")
def known_flow():
    return KnownFlow


@pytest.fixture(scope="module")
def statistics():
    """Ranges of [-1, 1]: normalised values are the metres themselves."""
    ones = np.ones(26)
    return Statistics(-ones, ones, -ones, ones)


@pytest.fixture(scope="module")
def embodiment():
    names = {"x": "right_arm.x", "y": "right_arm.y", "z": "right_arm.z", "gripper": "right_arm.gripper"}
    return Embodiment("tabletop", 20.0, ("front", "wrist"), "observation.state", "action", names, names)


@pytest.fixture
def observe(embodiment):
    """An observation whose images and state follow from a seed."""

    def make(seed):
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 100, (VIEWS, SIZE, SIZE, 3), dtype=np.uint8)
        state = embodiment.lift(generator.uniform(-0.2, 0.2, (1, 4)))[0]
        return Observation(images, np.ones(VIEWS, bool), state, embodiment.dof_mask)

    return make
