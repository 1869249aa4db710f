"""A text encoder and a Qwen2.5-like trunk alone, on captions in plain arrays."""

import jax
import jax.numpy as jnp

from wallwm_jax.data.text import VOCABULARY, encode
from wallwm_jax.nn.parameters import unbox
from wallwm_jax.nn.text_encoder import TextEncoder, TextEncoderSizes
from wallwm_jax.nn.vision_language import VisionLanguageSizes, VisionLanguageTrunk

text, mask = (jnp.stack(part) for part in zip(encode("push the puck", 16), encode("lift", 16), strict=True))
encoder = TextEncoder(sizes=TextEncoderSizes(layers=2, embed=32, heads=4, mlp=64, vocabulary=VOCABULARY))
features = encoder.apply(unbox(encoder.init(jax.random.key(0), text, mask)), text, mask)
options = {"qkv_bias": True, "qk_norm": False, "vocabulary": VOCABULARY}
trunk = VisionLanguageTrunk(sizes=VisionLanguageSizes(layers=2, embed=32, heads=4, key_heads=2, mlp=64, **options))
scores = trunk.apply(unbox(trunk.init(jax.random.key(1), None, None, text, mask)), None, None, text, mask)
assert features.shape == (2, 16, 32) and not features[~mask].any() and scores.shape == (2, 16, VOCABULARY)
