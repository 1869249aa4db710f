"""Event mode's arithmetic as pure functions of arrays: dream to the anchor, act, finish the dream (WALL-WM §7)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from wallwm_jax.core.rng import substream
from wallwm_jax.core.types import EventBatch
from wallwm_jax.infer.solvers import euler, split_steps, time_grid


@dataclasses.dataclass(frozen=True)
class SolverSettings:
    """Step counts and the anchor at which the action tower reads the video tower (WALL-WM eq. 12).

    `video_steps` Euler steps lead from pure noise to clean frames, split at the anchor, `anchor_step` of
    `denoise_steps` of training's schedule; `anchor_step` 0 reads pure noise: one video forward before acting. `samples`
    action noises share that forward and their mean is returned.
    """

    video_steps: int = 10
    action_steps: int = 10
    anchor_step: int = 45
    denoise_steps: int = 50
    shift: float = 5.0
    action_shift: float = 1.0
    samples: int = 1

    @property
    def anchor(self) -> float:
        """The anchor as a fraction of the way from pure noise to data, before the shift."""
        return self.anchor_step / self.denoise_steps

    def times_to_anchor(self) -> Float[Array, "times"]:
        before, _ = split_steps(self.video_steps, self.anchor_step, self.denoise_steps)
        return time_grid(before, self.shift, 0.0, self.anchor)

    def times_from_anchor(self) -> Float[Array, "times"]:
        _, after = split_steps(self.video_steps, self.anchor_step, self.denoise_steps)
        return time_grid(after, self.shift, self.anchor, 1.0)


class Condition(NamedTuple):
    """What every forward pass of an event reads. `keyframes`: latents at position 0, zeros elsewhere."""

    keyframes: Float[Array, "B F V h w C"]
    text_features: Float[Array, "B S L width"]
    text_mask: Bool[Array, "B S L"]


class HalfDream(NamedTuple):
    """The video at the anchor: latents, and the velocity that the one forward pass there gave."""

    sample: Float[Array, "B F V h w C"]
    velocity: Float[Array, "B F V h w C"]
    condition: Condition


def condition(model: Any, parameters: Any, batch: EventBatch) -> Condition:
    """Encodes the keyframes (zero for absent views) and the captions."""
    variables = {"params": parameters}
    first = model.apply(variables, batch.frames[:, :1], method="encode_frames")
    first = jnp.where(batch.view_mask[:, :1, :, None, None, None], first, 0.0)
    padding = [(0, 0), (0, batch.frame_mask.shape[1] - 1), *[(0, 0)] * (first.ndim - 2)]
    text_features = model.apply(variables, batch.text, batch.text_mask, method="encode_text")
    return Condition(jnp.pad(first, padding), text_features, batch.text_mask)


def event_steps(model: Any, parameters: Any, batch: EventBatch) -> Float[Array, "B S"]:
    """Control steps that the duration head expects of each event."""
    given = condition(model, parameters, batch)
    return jnp.exp(model.apply({"params": parameters}, batch, *given, method="duration"))


def act(
    model: Any,
    parameters: Any,
    batch: EventBatch,
    key: PRNGKeyArray,
    indices: Int[Array, "B"],
    settings: SolverSettings,
) -> tuple[Float[Array, "B A 26"], HalfDream]:
    """Denoises the video to the anchor, then the actions (relative, normalised) on the features read there.

    A row's noise is a function of `key` and its entry of `indices`, whatever the other rows hold.
    """
    given = condition(model, parameters, batch)
    noise = _row_noise(key, indices, "video_noise", given.keyframes.shape[1:])
    times = settings.times_to_anchor()
    sample = euler(lambda z, t: _video(model, parameters, batch, given, z, t)[0], noise, times)
    velocity, features = _video(model, parameters, batch, given, sample, times[-1])
    valid = batch.action_mask[:, None, :, None] & batch.dof_mask[:, :, None]
    action_noise = _row_noise(key, indices, "action_noise", (settings.samples, *batch.actions.shape[1:]))

    def action_velocity(noisy, time):
        shape = (noisy.shape[0], settings.samples, 1)
        predicted = model.apply(
            {"params": parameters}, batch, noisy, jnp.full(shape, time), features, method="action"
        )
        return jnp.where(valid, predicted, 0.0)

    grid = time_grid(settings.action_steps, settings.action_shift)
    actions = euler(action_velocity, jnp.where(valid, action_noise, 0.0), grid)
    return actions.mean(axis=1), HalfDream(sample, velocity, given)


def finish_dream(
    model: Any, parameters: Any, batch: EventBatch, half: HalfDream, settings: SolverSettings
) -> UInt8[Array, "B F R V H W 3"]:
    """Carries the video from the anchor to clean frames; the first step reuses the anchor's forward pass."""
    times, sample = settings.times_from_anchor(), half.sample
    if len(times) > 1:
        sample = sample + (times[1] - times[0]) * half.velocity
    sample = euler(lambda z, t: _video(model, parameters, batch, half.condition, z, t)[0], sample, times[1:])
    frames = model.apply({"params": parameters}, _pin(sample, batch, half.condition), method="decode_frames")
    return jnp.clip(jnp.round(frames), 0, 255).astype(jnp.uint8)


def _video(model, parameters, batch, given: Condition, sample, time):
    """Velocity and features at `time`; keyframe slots hold their clean latents, as in training."""
    shape = batch.segment_mask.shape
    return model.apply(
        {"params": parameters}, batch, _pin(sample, batch, given), given.keyframes, jnp.full(shape, time),
        given.text_features, given.text_mask, False, method="video",
    )  # fmt: skip


def _pin(sample, batch: EventBatch, given: Condition):
    return jnp.where((batch.frame_positions == 0)[..., None, None, None, None], given.keyframes, sample)


def _row_noise(key: PRNGKeyArray, indices: Int[Array, "B"], name: str, shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    return jax.vmap(lambda index: jax.random.normal(substream(key, name, index), shape))(indices)
