"""Without guidance the model is the paper's: no parameters but the towers', and latents are all that it needs."""

import jax
import numpy as np

from wallwm_jax.data.event_batch import make_event_batch
from wallwm_jax.models.initialise import abstract_inputs, init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction

parts = ("keyframe_reader", "waypoints", "painter", "duration", "patch_place", "clock")
model = WorldAction(variant("micro", dict.fromkeys(parts, False)), views=2)
event = {"latents": [np.zeros((3, 2, 4, 4, 24), np.float32)], "control_hz": 20.0, "steps_per_latent": 4}
batch = make_event_batch([np.zeros((8, 26), np.float32)], ["lift it"], **event)
params, _ = init_parameters(model, jax.random.key(0), batch)
outputs = jax.jit(model.apply)({"params": params}, *abstract_inputs(model, batch))
assert outputs.video.shape == (1, 3, 2, 4, 4, 24) and outputs.log_steps is None
assert set(params) == {"action", "blocks", "text_encoder", "video"}
assert not {"painter", "waypoint_head"} & set(params["video"])
