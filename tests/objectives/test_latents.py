"""Training on given latents: the losses of a batch without frames are those of the frames that the codec encodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.rng import stream
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.objectives.world_action import ActionSettings, VideoSettings, action_loss, video_loss

MODEL = WorldAction(variant("micro", {"reader": ()}), views=2)
LOSSES = {"video": (video_loss, VideoSettings()), "action": (action_loss, ActionSettings(draws=2))}


@pytest.mark.parametrize("name", LOSSES)
def test_given_latents_stand_for_frames(name):
    """The same loss to the bit, whatever the latents of masked slots and views hold. (No gradient reaches latents.)"""
    batch, (objective, settings) = random_batch(0), LOSSES[name]
    parameters, _ = init_parameters(MODEL, jax.random.key(0), batch)
    parameters = jax.tree.map(lambda leaf: leaf + 0.05, parameters)
    frames = jnp.asarray(batch.frames)
    latents = np.asarray(MODEL.apply({"params": parameters}, frames, method="encode_frames"))
    seen = (batch.frame_mask[..., None] & batch.view_mask)[..., None, None, None]
    assert not seen.all()
    given = batch._replace(frames=None, latents=np.where(seen, latents, 7.0))

    @jax.jit
    def evaluate(batch):
        return objective(MODEL, parameters, batch, stream(0, "test"), settings)[0]

    assert float(evaluate(batch)) == float(evaluate(given)) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_model_that_reads_pixels_refuses_latents_alone(name):
    """Its keyframe readers have nothing to look at; the message names the field."""
    model, batch, (objective, settings) = WorldAction(variant("micro"), views=2), random_batch(0), LOSSES[name]
    parameters, _ = init_parameters(model, jax.random.key(0), batch)
    given = batch._replace(frames=None, latents=np.zeros((*batch.view_mask.shape, 4, 4, 24), np.float32))
    with pytest.raises(InputError, match="frames: found None, expected pictures"):
        jax.eval_shape(lambda own, batch: objective(model, own, batch, stream(0, "test"), settings), parameters, given)


def test_parameters_can_be_drawn_from_a_batch_of_latents():
    """The draws depend on the key alone."""
    batch = random_batch(0)
    given = batch._replace(frames=None, latents=np.zeros((*batch.view_mask.shape, 4, 4, 24), np.float32))
    draws = [init_parameters(MODEL, jax.random.key(0), one)[0] for one in (batch, given)]
    jax.tree.map(np.testing.assert_array_equal, *draws)
