"""A training batch from latents, actions and captions of two events of different lengths, and a joint pass on it."""

import jax
import numpy as np

from wallwm_jax.data.event_batch import make_event_batch
from wallwm_jax.models.initialise import abstract_inputs, init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction

model, rng = WorldAction(variant("micro", {"reader": ()}), views=2), np.random.default_rng(0)
latents = [rng.normal(size=(count, 2, 4, 4, 24)) for count in (3, 2)]
actions = [rng.uniform(-1, 1, (count, 26)) for count in (7, 4)]
batch = make_event_batch(actions, ["push", "lift"], latents=latents, control_hz=10.0, steps_per_latent=4)
parameters, _ = init_parameters(model, jax.random.key(0), batch)
forward = jax.jit(lambda batch: model.apply({"params": parameters}, *abstract_inputs(model, batch)))
video, action, steps = forward(batch)
assert video.shape == (2, 3, 2, 4, 4, 24) and action.shape == (2, 1, 8, 26) and steps.shape == (2, 1)
