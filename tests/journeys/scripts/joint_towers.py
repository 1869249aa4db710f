"""Both towers at 192 x 224 pixels, seen by two of four cameras and by all four, with one set of parameters."""

import jax
import numpy as np

from wallwm_jax.data.event_batch import make_event_batch
from wallwm_jax.models.initialise import abstract_inputs, init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.video_codec import HaarCodec

size = variant("micro", {"codec": HaarCodec(spatial_levels=4, kept_spatial=4, kept_temporal=2)})
model, event = WorldAction(size, views=4), {"control_hz": 20.0, "steps_per_latent": 8, "spatial_compression": 16}
frames, actions = np.zeros((9, 4, 192, 224, 3), np.uint8), np.zeros((16, 26), np.float32)
two, four = (make_event_batch([actions], ["lift it"], frames=[frames[:, :n]], **event) for n in (2, 4))
params, _ = init_parameters(model, jax.random.key(0), four)
outputs = [jax.jit(model.apply)({"params": params}, *abstract_inputs(model, batch)) for batch in (two, four)]
assert [part.video.shape for part in outputs] == [(1, 3, cameras, 12, 14, 24) for cameras in (2, 4)]
assert all(part.action.shape == (1, 1, 16, 26) and np.isfinite(part.log_steps).all() for part in outputs)
