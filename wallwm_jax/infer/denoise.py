"""Both modes' arithmetic as pure functions of arrays: observe, step the video, act, show (WALL-WM §7)."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.model import Model
from wallwm_jax.core.rng import substream
from wallwm_jax.core.types import EventBatch
from wallwm_jax.infer.solvers import euler, split_steps, time_grid
from wallwm_jax.objectives.anchor import AnchorSchedule


@dataclasses.dataclass(frozen=True)
class SolverSettings(AnchorSchedule):
    """Step counts, and the anchor of the training that made the model.

    `video_steps` Euler steps lead from pure noise to clean frames, split at the anchor; with `anchor_step` 0 there is
    one video forward before acting. `samples` action noises share that forward and their mean is returned.
    """

    video_steps: int = 10
    action_steps: int = 10
    action_shift: float = 1.0
    samples: int = 1

    def times_to_anchor(self) -> Float[np.ndarray, "times"]:
        before, _ = split_steps(self.video_steps, self.anchor_step, self.denoise_steps)
        return time_grid(before, self.shift, 0.0, self.anchor)

    def times_from_anchor(self) -> Float[np.ndarray, "times"]:
        _, after = split_steps(self.video_steps, self.anchor_step, self.denoise_steps)
        return time_grid(after, self.shift, self.anchor, 1.0)


class TextCondition(NamedTuple):
    """What a prediction is told, whoever says it: captions, an instruction, latents of a reasoning branch."""

    features: Float[Array, "B S L width"]
    """In the text encoder's feature space; zero where the mask is False."""
    mask: Bool[Array, "B S L"]
    told_event: Bool[Array, "B S"]
    """Whether it tells the event that is due; False: the task, which names much besides."""

    def padded(self, length: int) -> "TextCondition":
        """With L = `length`, masked at the end; raises InputError if it is longer."""
        missing = length - self.mask.shape[-1]
        if missing < 0:
            raise InputError("text condition", f"{self.mask.shape[-1]} tokens", f"at most {length}")
        pad = [(0, 0), (0, 0), (0, missing)]
        return TextCondition(np.pad(self.features, [*pad, (0, 0)]), np.pad(self.mask, pad), self.told_event)


class Condition(NamedTuple):
    """What every forward pass of an event or chunk reads."""

    observed: Float[Array, "B O V h w C"]
    """Latents of the observed slots, which are the first: M of history and the anchor. Zero where masked."""
    text_features: Float[Array, "B S L width"]
    text_mask: Bool[Array, "B S L"]
    told_event: Bool[Array, "B S"]
    found: Float[Array, "B S action_embed"] | None
    """What the text finds in the current observation, for the actions; None if the model has no keyframe reader."""

    @property
    def text(self) -> dict[str, Array]:
        """What it is told, as keywords of the model's methods."""
        return {"text_features": self.text_features, "text_mask": self.text_mask}


def encode_text(model: Model, parameters: Any, text: Int[Array, "B S L"], mask: Bool[Array, "B S L"]) -> TextCondition:
    """Captions of events through the model's own text encoder."""
    features = model.apply({"params": parameters}, text, mask, method="encode_text")
    return TextCondition(features, mask, jnp.ones(mask.shape[:2], bool))


def observe(
    model: Model, parameters: Any, batch: EventBatch, text: TextCondition, observed_slots: int
) -> tuple[Condition, Float[Array, "B S"] | None]:
    """Encodes the first `observed_slots` slots (zero where masked) and reads the current observation by the text; also
    the control steps that the duration head expects, None if the model has none."""
    variables = {"params": parameters}
    observed = model.apply(variables, batch.frames[:, :observed_slots], method="encode_frames")
    observed = jnp.where(batch.view_mask[:, :observed_slots, :, None, None, None], observed, 0.0)
    # Features of masked tokens must not matter, whoever made them.
    features, batch = jnp.where(text.mask[..., None], text.features, 0.0), batch._replace(told_event=text.told_event)
    given = Condition(observed, features, text.mask, text.told_event, None)
    found, _ = model.apply(variables, batch, **given.text, method="read_keyframes")
    given = given._replace(found=found)
    channel = _observed_channel(given, batch.frame_mask.shape[1])
    log_steps = model.apply(variables, batch, channel, **given.text, method="duration")
    return given, None if log_steps is None else jnp.exp(log_steps)


def draw_noise(
    key: PRNGKeyArray, indices: Int[Array, "B"], video: tuple[int, ...], actions: tuple[int, ...]
) -> tuple[Float[Array, "B F V h w C"], Float[Array, "B K A 26"]]:
    """Noise of a row's video `[F V h w C]` and actions `[K A 26]`, from `key` and its entry of `indices` alone."""
    count = math.prod(video)
    # One draw for both: the generator takes longer to compile than anything it feeds takes to run.
    flat = jax.vmap(lambda index: jax.random.normal(substream(key, index), (count + math.prod(actions),)))(indices)
    return flat[:, :count].reshape(-1, *video), flat[:, count:].reshape(-1, *actions)


def foresee(model: Model, parameters: Any, batch: EventBatch, given: Condition) -> Any:
    """What the model says of the frames to come before it dreams them, the same for every step of a prediction."""
    channel, batch = _observed_channel(given, batch.frame_mask.shape[1]), batch._replace(told_event=given.told_event)
    return model.apply({"params": parameters}, batch, channel, **given.text, method="foresee")


def video_step(
    model: Model,
    parameters: Any,
    batch: EventBatch,
    given: Condition,
    sketch: Any,
    sample: Float[Array, "B F V h w C"],
    now: Float[Array, ""],
    following: Float[Array, ""],
) -> tuple[Float[Array, "B F V h w C"], Float[Array, "layers B F V n embed"]]:
    """One Euler step of the video from time `now` to `following`, and the features at `now`. Observed slots hold their
    clean latents, as in training."""
    channel = _observed_channel(given, sample.shape[1])
    sample = jnp.where(batch.observed_mask[..., None, None, None, None], channel, sample)
    time = jnp.full(batch.segment_mask.shape, now)
    velocity, features = model.apply(
        {"params": parameters}, batch, sample, channel, time, **given.text, sketch=sketch, method="video"
    )
    return sample + (following - now) * velocity, features


def act(
    model: Model,
    parameters: Any,
    batch: EventBatch,
    given: Condition,
    noise: Float[Array, "B K A 26"],
    features: Float[Array, "layers B F V n embed"],
    settings: SolverSettings,
) -> Float[Array, "B A 26"]:
    """Denoises the actions (relative, normalised; zero where masked) on the features read at the anchor."""
    valid = batch.action_mask[:, None, :, None] & batch.dof_mask[:, :, None]
    shape = (*noise.shape[:2], 1)

    def velocity(noisy, time):
        inputs = {"found": given.found, "features": features}
        predicted = model.apply({"params": parameters}, batch, noisy, jnp.full(shape, time), **inputs, method="action")
        return jnp.where(valid, predicted, 0.0)

    grid = time_grid(settings.action_steps, settings.action_shift)
    return euler(velocity, jnp.where(valid, noise, 0.0), grid).mean(axis=1)


def show(
    model: Model, parameters: Any, batch: EventBatch, given: Condition, sample: Float[Array, "B F V h w C"]
) -> tuple[UInt8[Array, "B F R V H W 3"], Bool[Array, "B"]]:
    """Frames of the clean latents, observed slots through the codec; and whether all of a row's real ones are finite,
    which its pixels no longer tell."""
    observed = given.observed.shape[1]
    latents = jnp.concatenate([given.observed, sample[:, observed:]], axis=1)
    frames = model.apply({"params": parameters}, latents, method="decode_frames")
    finite = jnp.isfinite(latents).all((3, 4, 5)) | ~batch.view_mask
    return jnp.clip(jnp.round(frames), 0, 255).astype(jnp.uint8), finite.all((1, 2))


def _observed_channel(given: Condition, slots: int) -> Float[Array, "B F V h w C"]:
    """Latents of the observed slots, zeros elsewhere."""
    missing = slots - given.observed.shape[1]
    return jnp.pad(given.observed, [(0, 0), (0, missing), *[(0, 0)] * (given.observed.ndim - 2)])
