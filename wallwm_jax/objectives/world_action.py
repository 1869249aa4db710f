"""The losses of stages 1, 2 and 5: flow matching of a window's video (WALL-WM eq. 7) and of its actions (eq. 13).

All take the model as an argument and know it by its methods alone, of which those of a part that the model lacks
answer None: waypoints, keyframe reader, duration head. Randomness belongs to a row and slot of the
global batch: the draws do not depend on how the batch is sharded, nor a slot's noise on any content; given a part of
the batch, the losses of all parts add up to the whole's (`portions`). Whatever a mask excludes is replaced by zero
before the model sees it and never enters a loss, its mean or its gradients.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from wallwm_jax.core.model import Model
from wallwm_jax.core.rng import substream
from wallwm_jax.core.types import EventBatch
from wallwm_jax.objectives import cosine_transform, flow
from wallwm_jax.objectives.anchor import AnchorSchedule
from wallwm_jax.objectives.caption_drop import CaptionDrop, drop_captions
from wallwm_jax.objectives.portions import WHOLE, Portion
from wallwm_jax.objectives.segments import of_segments, rows_of_segments
from wallwm_jax.objectives.waypoints import gaze_loss, gazes, waypoint_loss

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class VideoSettings:
    """Stage 1. Times are drawn and then shifted; `regressed` says whose error counts, the velocity's or the clean
    latents' (`flow.weight`); `caption_drop` None keeps every caption. `waypoint_weight` is what the waypoints' losses
    count beside the video's; with `taught`, events are drawn from their true waypoints, where these are known, so that
    the tower learns to trust them."""

    time_sampling: str = "uniform"
    time_shift: float = 1.0
    regressed: str = "velocity"
    sight_cones: bool = True
    waypoint_weight: float = 0.1
    taught: bool = True
    caption_drop: CaptionDrop | None = dataclasses.field(default_factory=CaptionDrop)

    def for_evaluation(self) -> "VideoSettings":
        """As at inference: no sight cones, every caption. Times are even, whatever training draws more often, so that
        runs with different shifts can be compared."""
        return dataclasses.replace(
            self, sight_cones=False, caption_drop=None, time_shift=1.0, waypoint_weight=0.0, taught=False
        )


@dataclasses.dataclass(frozen=True)
class ActionSettings(AnchorSchedule):
    """Stage 2. `draws` action noises share one video forward at the anchor's time, give or take `anchor_jitter` (half
    the width of a uniform window in t). `regressed` "clean" is the x-prediction of eq. 13: errors weighed by t^2.
    `gaze_weight` is what looking at the wrong place counts.
    """

    draws: int = 6
    anchor_jitter: float = 0.05
    time_sampling: str = "uniform"
    time_shift: float = 1.0
    regressed: str = "velocity"
    duration_weight: float = 0.1
    huber_delta: float = 0.5
    dct_weight: float = 0.0
    gaze_weight: float = 0.02

    def for_evaluation(self) -> "ActionSettings":
        """As at inference: the video tower is read exactly at the anchor; even times, as in `VideoSettings`."""
        return dataclasses.replace(self, anchor_jitter=0.0, time_shift=1.0, gaze_weight=0.0)


@dataclasses.dataclass(frozen=True)
class AdaptationSettings:
    """Stage 5: both losses, each with the settings of its own stage; the actions' counts `action_weight` times.

    `through_features` lets the action loss train the video tower through the features that it reads. DECIDE: it does
    not by default, as in stage 2: coupling is one way, and the video tower is to learn what comes, not what suits the
    actions. The duration's part of `action` is left out: its head keeps what stage 2 taught it of events.
    """

    video: VideoSettings = dataclasses.field(default_factory=VideoSettings)
    action: ActionSettings = dataclasses.field(default_factory=ActionSettings)
    action_weight: float = 1.0
    through_features: bool = False

    def for_evaluation(self) -> "AdaptationSettings":
        """As at inference, in both parts."""
        parts = {"video": self.video.for_evaluation(), "action": self.action.for_evaluation()}
        return dataclasses.replace(self, **parts)


class Observed(NamedTuple):
    """What a forward pass conditions on. `keyframes` holds the observed slots' latents and zeros elsewhere."""

    latents: Float[Array, "B F V h w C"]
    keyframes: Float[Array, "B F V h w C"]
    text_features: Float[Array, "B S L width"]
    text_mask: Bool[Array, "B S L"]

    @property
    def text(self) -> dict[str, Array]:
        """What it is told, as keywords of the model's methods."""
        return {"text_features": self.text_features, "text_mask": self.text_mask}


def video_loss(
    model: Model,
    parameters: Any,
    batch: EventBatch,
    key: PRNGKeyArray,
    settings: VideoSettings,
    portion: Portion = WHOLE,
) -> tuple[Float[Array, ""], Metrics]:
    """Masked flow matching of the future latents, and the waypoints' losses; `metrics` holds these parts ("video_loss",
    "waypoint_loss", "gaze_loss"), "tokens" and "events" of the batch.

    DECIDE: observed slots are given, as in Wan's image-to-video model: their clean latents stand in the model's input
    and they are no part of the loss. The mean runs over the latent cells that `video_loss_mask` keeps.
    """
    batch, text_mask = without_masked(batch), batch.text_mask
    if settings.caption_drop is not None:
        draw = substream(key, "caption")
        text_mask = drop_captions(draw, text_mask, batch.event_steps, settings.caption_drop, portion)
    observed = observe(model, parameters, batch, text_mask)
    noise = portion.normal(substream(key, "video_noise"), observed.latents.shape)
    chosen = batch.segment_mask.shape, settings.time_sampling, settings.time_shift
    time = flow.sample_time(substream(key, "video_time"), *chosen, portion)
    noisy = noisy_video(observed.latents, noise, time, batch)
    sketch, told, parts = _sketch(model, parameters, batch, observed, settings, portion)
    predicted, features = model.apply(
        {"params": parameters}, batch, noisy, observed.keyframes, time, **observed.text,
        sketch=jax.lax.stop_gradient(sketch), sight_cones=settings.sight_cones, method="video",
    )  # fmt: skip
    error = jnp.mean(jnp.square(predicted - flow.velocity(observed.latents, noise)), axis=-1)
    weight = flow.weight(of_segments(time, batch.frame_segment_ids), settings.regressed)
    loss = portion.mean(video_loss_mask)(error * _to_cells(weight), video_loss_mask(batch))
    metrics = parts | {"video_loss": loss, "tokens": _video_tokens(batch, features)}
    return loss + settings.waypoint_weight * told, metrics | {"events": _count(batch.segment_mask)}


def _sketch(
    model: Model, parameters: Any, batch: EventBatch, observed: Observed, settings: VideoSettings, portion: Portion
) -> tuple[Any, Float[Array, ""], Metrics]:
    """What the video tower is shown of its waypoints, and the losses of waypoints, gaze and painter: sum and parts."""
    variables = {"params": parameters}
    waypoints = model.apply(variables, batch, **observed.text, method="waypoints")
    if waypoints is None:
        return None, jnp.zeros(()), {}
    labels_of = _labels_of(model, parameters)
    labels, over_known = labels_of(batch), portion.mean(lambda whole: labels_of(whole).known)
    metrics = {
        "waypoint_loss": waypoint_loss(waypoints.places, waypoints.spreads, labels.places, labels.known, over_known),
        "gaze_loss": _gaze_loss(waypoints.looked_at, labels, labels_of, portion),
    }
    if settings.taught:
        places = jnp.where(labels.known[..., None], labels.places, waypoints.places)
        waypoints = waypoints._replace(places=places)
    sketch = model.apply(variables, batch, observed.keyframes, waypoints, method="sketch")
    if sketch.painted is not None:
        error = jnp.mean(jnp.square(sketch.painted - observed.latents), axis=-1)
        metrics["sketch_loss"] = portion.mean(video_loss_mask)(error, video_loss_mask(batch))
    return sketch, sum(metrics.values()), metrics


def action_loss(
    model: Model,
    parameters: Any,
    batch: EventBatch,
    key: PRNGKeyArray,
    settings: ActionSettings,
    portion: Portion = WHOLE,
) -> tuple[Float[Array, ""], Metrics]:
    """Masked flow matching of the actions over K noise draws, plus the Huber loss of the log duration and that of gaze,
    where the model has a duration head and a keyframe reader.

    The video tower runs once, at the anchor time, and passes no gradient back. `metrics` adds the parts of the loss
    ("action_loss", "action_gaze_loss", "duration_loss", with `dct_weight` also "dct_loss") to "tokens" and "events".
    """
    fixed, batch = jax.lax.stop_gradient(parameters), without_masked(batch)
    observed = observe(model, fixed, batch, batch.text_mask)
    features = jax.lax.stop_gradient(anchor_features(model, fixed, batch, observed, key, settings, portion))
    loss, metrics = _action_flow(model, parameters, batch, observed, features, key, settings, portion)
    duration = _duration_loss(model, parameters, batch, observed, settings.huber_delta, portion)
    if duration is None:
        return loss, metrics
    return loss + settings.duration_weight * duration, metrics | {"duration_loss": duration}


def adaptation_loss(
    model: Model,
    parameters: Any,
    batch: EventBatch,
    key: PRNGKeyArray,
    settings: AdaptationSettings,
    portion: Portion = WHOLE,
) -> tuple[Float[Array, ""], Metrics]:
    """Next-chunk adaptation (WALL-WM stage 5): the video loss and the action loss of the same windows, jointly.

    Windows of either kind may share the batch. The video is run twice: at times of its own for its loss, and once at
    the anchor time for all action draws. `metrics` holds the parts of both losses, "tokens" and "events".
    """
    video, counts = video_loss(model, parameters, batch, substream(key, "video"), settings.video, portion)
    key, batch = substream(key, "action"), without_masked(batch)
    read = parameters if settings.through_features else jax.lax.stop_gradient(parameters)
    observed = observe(model, read, batch, batch.text_mask)
    features = anchor_features(model, read, batch, observed, key, settings.action, portion)
    action, metrics = _action_flow(model, parameters, batch, observed, features, key, settings.action, portion)
    tokens = metrics["tokens"] + counts["tokens"]
    return video + settings.action_weight * action, counts | metrics | {"tokens": tokens}


def _action_flow(
    model: Model,
    parameters: Any,
    batch: EventBatch,
    observed: Observed,
    features: Float[Array, "layers B F V n embed"],
    key: PRNGKeyArray,
    settings: ActionSettings,
    portion: Portion,
) -> tuple[Float[Array, ""], Metrics]:
    """The flow matching part of `action_loss` on given features."""
    valid = action_loss_mask(batch)
    actions = batch.actions[:, None]
    rows, draws = batch.actions.shape[0], settings.draws
    noise = portion.normal(substream(key, "action_noise"), (rows, draws, *batch.actions.shape[1:]))
    noise = jnp.where(valid[:, None], noise, 0.0)
    chosen = (rows, draws, batch.segment_mask.shape[1]), settings.time_sampling, settings.time_shift
    time = flow.sample_time(substream(key, "action_time"), *chosen, portion)
    slot_time = of_segments(time, batch.action_segment_ids)[..., None]
    noisy = flow.interpolate(actions, noise, slot_time)
    variables = {"params": parameters}
    found, looked_at = model.apply(variables, batch, **observed.text, method="read_keyframes")
    predicted = model.apply(variables, batch, noisy, time, found=found, features=features, method="action")
    weight = flow.weight(slot_time, settings.regressed)
    error = weight * jnp.square(predicted - flow.velocity(actions, noise))
    loss = portion.mean(lambda whole: _for_draws(action_loss_mask(whole), draws))(error, _for_draws(valid, draws))
    metrics = {"action_loss": loss, "events": _count(batch.segment_mask)}
    metrics["tokens"] = _video_tokens(batch, features) + draws * _count(batch.action_mask)
    if looked_at is not None:
        labels_of = _labels_of(model, parameters)
        metrics["action_gaze_loss"] = _gaze_loss(looked_at, labels_of(batch), labels_of, portion)
        loss = loss + settings.gaze_weight * metrics["action_gaze_loss"]
    if settings.dct_weight:
        estimate = flow.clean_from_velocity(noisy, predicted, slot_time)
        metrics["dct_loss"] = _cosine_loss(estimate - actions, slot_time, valid, batch, portion)
        loss = loss + settings.dct_weight * metrics["dct_loss"]
    return loss, metrics


def without_masked(batch: EventBatch) -> EventBatch:
    """The batch with zeros in every action step and degree of freedom, and every state entry, that a mask excludes."""
    actions = jnp.where(action_loss_mask(batch), batch.actions, 0.0)
    return batch._replace(actions=actions, state=jnp.where(batch.dof_mask, batch.state, 0.0))


def observe(model: Model, parameters: Any, batch: EventBatch, text_mask: Bool[Array, "B S L"]) -> Observed:
    """Latents (of no gradient, and zero where masked), keyframe channel and text features of a batch."""
    latents = batch.latents
    if latents is None:
        latents = model.apply({"params": parameters}, batch.frames, method="encode_frames")
    seen = batch.frame_mask[..., None] & batch.view_mask
    latents = jax.lax.stop_gradient(jnp.where(seen[..., None, None, None], latents, 0.0))
    keyframes = model.apply({"params": parameters}, batch, latents, method="keyframes")
    features = model.apply({"params": parameters}, batch.text, text_mask, method="encode_text")
    return Observed(latents, keyframes, features, text_mask)


def noisy_video(
    latents: Float[Array, "B F V h w C"],
    noise: Float[Array, "B F V h w C"],
    time: Float[Array, "B S"],
    batch: EventBatch,
) -> Float[Array, "B F V h w C"]:
    """Path points at every segment's own time (the model itself replaces observed slots by what is given)."""
    return flow.interpolate(latents, noise, _to_cells(of_segments(time, batch.frame_segment_ids))[..., None])


def anchor_features(
    model: Model,
    parameters: Any,
    batch: EventBatch,
    observed: Observed,
    key: PRNGKeyArray,
    settings: ActionSettings,
    portion: Portion = WHOLE,
) -> Float[Array, "layers B F V n embed"]:
    """Features of every video block from the one forward pass at the anchor time (WALL-WM eq. 12)."""
    anchor = settings.anchor_time
    offset = portion.uniform(substream(key, "anchor"), batch.segment_mask.shape, minval=-1.0, maxval=1.0)
    time = jnp.clip(anchor + settings.anchor_jitter * offset, 0.0, 1.0)
    noise = portion.normal(substream(key, "video_noise"), observed.latents.shape)
    variables, noisy = {"params": parameters}, noisy_video(observed.latents, noise, time, batch)
    sketch = model.apply(variables, batch, observed.keyframes, **observed.text, method="foresee")
    _, features = model.apply(
        variables, batch, noisy, observed.keyframes, time, **observed.text, sketch=sketch, method="video"
    )
    return features


def video_loss_mask(batch: EventBatch) -> Bool[Array, "B F V h w"]:
    """Cells of frames to be generated that are real, seen by a present camera and inside the image border."""
    future = batch.frame_mask & ~batch.observed_mask & (batch.frame_segment_ids > 0)
    return (future[..., None] & batch.view_mask)[..., None, None] & batch.border_mask


def action_loss_mask(batch: EventBatch) -> Bool[Array, "B A 26"]:
    """Real steps of real events x the degrees of freedom of the event's embodiment."""
    step = batch.action_mask & (batch.action_segment_ids > 0)
    return step[..., None] & rows_of_segments(batch.dof_mask, batch.action_segment_ids)


def _duration_loss(
    model: Model, parameters: Any, batch: EventBatch, observed: Observed, delta: float, portion: Portion
) -> Float[Array, ""] | None:
    """Huber loss of the predicted log number of control steps, over the segments in use; None without a head."""
    predicted = model.apply({"params": parameters}, batch, observed.keyframes, **observed.text, method="duration")
    if predicted is None:
        return None
    error = jnp.abs(predicted - jnp.log(jnp.maximum(batch.event_steps, 1).astype(jnp.float32)))
    huber = jnp.where(error <= delta, 0.5 * jnp.square(error), delta * (error - 0.5 * delta))
    return portion.mean(lambda whole: whole.segment_mask)(huber, batch.segment_mask)


def _cosine_loss(
    error: Float[Array, "B K A D"],
    slot_time: Float[Array, "B K A 1"],
    valid: Bool[Array, "B A D"],
    batch: EventBatch,
    portion: Portion,
) -> Float[Array, ""]:
    """(1 - t)^2 sum_j exp(-j / (T_a / 4)) |DCT(error)_j|^2, as a mean over valid coefficients (T = 1 here)."""
    basis, decay = cosine_transform.packed_basis(batch.action_segment_ids, batch.action_positions, batch.action_mask)
    spectrum = jnp.einsum("bjk,bnkd->bnjd", basis, jnp.where(valid[:, None], error, 0.0))
    terms = jnp.square(1 - slot_time) * decay[:, None, :, None] * jnp.square(spectrum)
    draws = error.shape[1]
    return portion.mean(lambda whole: _for_draws(action_loss_mask(whole), draws))(terms, _for_draws(valid, draws))


def _labels_of(model: Model, parameters: Any) -> Callable[[EventBatch], Any]:
    """What a batch says of waypoints; no parameter has a part in it."""
    return lambda batch: model.apply({"params": parameters}, batch, method="waypoint_labels")


def _gaze_loss(
    logits: Float[Array, "B S V query h w"], labels: Any, labels_of: Callable[[EventBatch], Any], portion: Portion
) -> Float[Array, ""]:
    mean = portion.mean(lambda whole: gazes(labels_of(whole).gaze_known))
    return gaze_loss(logits, labels.gaze, labels.gaze_known, mean)


def _for_draws(valid: Bool[Array, "B A D"], draws: int) -> Bool[Array, "B K A D"]:
    """The same for every noise draw."""
    return jnp.broadcast_to(valid[:, None], (valid.shape[0], draws, *valid.shape[1:]))


def _to_cells(values: Array) -> Array:
    """[B, F] -> [B, F, 1, 1, 1]: broadcasts over views and cells."""
    return values[..., None, None, None]


def _count(mask: Bool[Array, "..."]) -> Float[Array, ""]:
    return jnp.sum(mask, dtype=jnp.float32)


def _video_tokens(batch: EventBatch, features: Float[Array, "layers B F V n embed"]) -> Float[Array, ""]:
    """Real video tokens of the batch."""
    return _count(batch.frame_mask[..., None] & batch.view_mask) * features.shape[-2]
