"""The video transformer alone: noisy latents, a caption's features and masks in, velocities and features out."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from wallwm_jax.nn.video_dit import VideoDiT, VideoDiTSizes

sizes = VideoDiTSizes(layers=2, embed=32, heads=2, mlp=64, channels=8, text_embed=16, views=3)
dit, key = VideoDiT(sizes=sizes), jax.random.key(0)
noisy, time, text = jax.random.normal(key, (1, 5, 3, 8, 6, 8)), jnp.full((1, 1), 0.5), jnp.ones((1, 1, 7, 16))
given = {"text_mask": jnp.ones((1, 1, 7), bool), "view_mask": jnp.ones((1, 5, 3), bool)}
given |= {"observed": jnp.zeros_like(noisy), "observed_mask": jnp.arange(5)[None] == 0}
variables = nn.meta.unbox(jax.jit(dit.init)(key, noisy, time, text, **given))
velocity, features = jax.jit(dit.apply)(variables, noisy, time, text, **given)
assert velocity.shape == noisy.shape and features.shape == (2, 1, 5, 3, 4 * 3, 32)
