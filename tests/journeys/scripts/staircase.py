"""The Staircase alone: latents from prompt embeddings and a mask, on a trunk's blocks; gradients reach the prompt."""

import jax
import jax.numpy as jnp

from wallwm_jax.nn.parameters import unbox
from wallwm_jax.nn.staircase import Staircase, StaircaseSizes
from wallwm_jax.nn.vision_language import VisionLanguageSizes, VisionLanguageTrunk

sizes = VisionLanguageSizes(layers=4, embed=32, heads=4, key_heads=2, mlp=64, vocabulary=259)
branch = Staircase(sizes=StaircaseSizes(trunk=sizes, relay_depth=2, latents=3))
text, mask = jnp.array([[5, 6, 7], [8, 9, 0]]), jnp.array([[True, True, True], [True, True, False]])
trunk = unbox(VisionLanguageTrunk(sizes=sizes).init(jax.random.key(0), None, None, text, mask))["params"]
prompt = trunk["embedding"][text]
variables = unbox(branch.init(jax.random.key(1), prompt, mask, trunk["blocks"]))
gradient = jax.grad(lambda prompt: branch.apply(variables, prompt, mask, trunk["blocks"])[..., 0].sum())(prompt)
assert branch.apply(variables, prompt, mask, trunk["blocks"]).shape == (2, 3, 32)
assert jnp.abs(gradient[mask]).min(-1).max() > 0 and not gradient[~mask].any()
