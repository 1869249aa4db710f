"""The action transformer alone, on cached video features: noisy actions, the state and masks in, velocities out."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from wallwm_jax.nn.action_dit import ActionDiT, ActionDiTSizes

dit = ActionDiT(sizes=ActionDiTSizes(layers=2, embed=24, heads=2, mlp=48, video_embed=32, dof=7))
key, features = jax.random.key(0), jnp.ones((2, 1, 3, 2, 12, 32))
noisy, time = jax.random.normal(key, (1, 6, 16, 7)), jnp.full((1, 6, 1), 0.5)
given = {"state": jnp.zeros((1, 1, 7)), "dof_mask": jnp.ones((1, 1, 7), bool)}
given |= {"action_mask": jnp.ones((1, 16), bool), "view_mask": jnp.ones((1, 3, 2), bool)}
given["action_frames"] = 1 + jnp.arange(16)[None] // 8
variables = nn.meta.unbox(jax.jit(dit.init)(key, noisy, time, features, **given))
velocity = jax.jit(dit.apply)(variables, noisy, time, features, **given)
assert velocity.shape == noisy.shape
