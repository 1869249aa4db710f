"""The losses of the vision-language side: pretraining of the trunk and the small language model, the text conditioner
(stage 3, WALL-WM eq. 21) and Staircase distillation (stage 4, eqs. 18-19).

A missing label is masked where it is missing: a term of a row, or the span of a trace that has none.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from wallwm_jax.core.model import Model
from wallwm_jax.core.types import PlanBatch
from wallwm_jax.objectives.portions import WHOLE, Mean, Portion
from wallwm_jax.objectives.segments import masked_mean

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class BackboneSettings:
    """Pretraining: the trunk says caption and trace, the small language model writes traces from notes."""

    language_weight: float = 1.0

    def for_evaluation(self) -> "BackboneSettings":
        return self


@dataclasses.dataclass(frozen=True)
class ConditionerSettings:
    """Stage 3: the weights of eq. 21, and where the remaining time's Huber loss turns linear (in log steps)."""

    align_weight: float = 1.0
    next_weight: float = 1.0
    time_weight: float = 1.0
    huber_delta: float = 0.5

    def for_evaluation(self) -> "ConditionerSettings":
        return self


@dataclasses.dataclass(frozen=True)
class StaircaseSettings:
    """Stage 4: `schedule` as in `nn.staircase`; `align_weight` 0 leaves the latents without a place in the text
    space, so that they can be read by the language model alone."""

    schedule: str = "staircase"
    align_weight: float = 1.0
    presence_weight: float = 0.1

    def for_evaluation(self) -> "StaircaseSettings":
        return self


def backbone_loss(
    model: Model,
    parameters: Any,
    batch: PlanBatch,
    key: PRNGKeyArray,
    settings: BackboneSettings,
    portion: Portion = WHOLE,
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of the caption and the trace after a prompt, and of traces after notes without any prompt."""
    variables = {"params": parameters}
    scores = model.apply(variables, batch, method="trunk_scores")
    captions = caption_predictors(scores, batch.prompt_mask, batch.caption.shape[1])
    traces = scores[:, -batch.trace.shape[1] :]
    over_captions, over_traces = portion.mean(caption_labels), portion.mean(lambda whole: _next(trace_labels(whole)))
    caption, caption_right = token_loss(captions, batch.caption, caption_labels(batch), over_captions)
    trace, trace_right = next_token_loss(traces, batch.trace, trace_labels(batch), over_traces)
    notes = jnp.concatenate([batch.notes, batch.trace], 1)
    notes_mask = jnp.concatenate([batch.notes_mask, batch.trace_mask], 1)
    written = model.apply(variables, notes, notes_mask, method="language_scores")[:, batch.notes.shape[1] :]
    over_written = portion.mean(lambda whole: _next(written_labels(whole)))
    language, language_right = next_token_loss(written, batch.trace, written_labels(batch), over_written)
    loss = caption + trace + settings.language_weight * language
    metrics = {"caption_loss": caption, "trace_loss": trace, "language_loss": language}
    all_right = portion.constant(1)
    metrics |= {"caption_accuracy_loss": all_right - caption_right, "trace_accuracy_loss": all_right - trace_right}
    metrics["language_accuracy_loss"] = all_right - language_right
    return loss, metrics | _counts(batch, batch.caption_mask, batch.trace_mask)


def conditioner_loss(
    model: Model,
    parameters: Any,
    batch: PlanBatch,
    key: PRNGKeyArray,
    settings: ConditionerSettings,
    portion: Portion = WHOLE,
) -> tuple[Float[Array, ""], Metrics]:
    """Eq. 21: l_align |c_VLM - c_text|^2 + l_next CE + l_time Huber, each a mean over its own labels.

    The trunk and the text encoder are frozen and pass no gradient; the alignment is a mean over the caption's tokens
    and features.
    """
    variables, fixed = {"params": parameters}, {"params": jax.lax.stop_gradient(parameters)}
    hidden, mask = model.apply(fixed, batch, method="with_caption")
    first, length = hidden.shape[1] - batch.caption.shape[1], batch.caption.shape[1]
    target = model.apply(fixed, batch.text, batch.text_mask, method="encode_text")
    found = model.apply(variables, hidden[:, first:], batch.caption_mask, batch.text_mask, method="condition")
    align = portion.mean(text_labels)(jnp.mean(jnp.square(found - target), -1), text_labels(batch))
    asked = hidden[:, first - batch.prompt.shape[1] :]
    scores = model.apply(variables, asked, method="caption_scores")
    captions = caption_predictors(scores, batch.prompt_mask, length)
    following, right = token_loss(captions, batch.caption, caption_labels(batch), portion.mean(caption_labels))
    known = (batch.state, batch.dof_mask)
    steps = model.apply(variables, hidden, mask, *known, method="remaining_time")
    error = jnp.abs(steps - jnp.log(jnp.maximum(batch.remaining, 1.0)))
    delta = settings.huber_delta
    huber = jnp.where(error <= delta, 0.5 * jnp.square(error), delta * (error - 0.5 * delta))
    time = portion.mean(time_labels)(huber, time_labels(batch))
    loss = settings.align_weight * align + settings.next_weight * following + settings.time_weight * time
    metrics = {"align_loss": align, "next_loss": following, "time_loss": time}
    metrics["next_accuracy_loss"] = portion.constant(1) - right
    return loss, metrics | _counts(batch, batch.caption_mask)


def staircase_loss(
    model: Model,
    parameters: Any,
    batch: PlanBatch,
    key: PRNGKeyArray,
    settings: StaircaseSettings,
    portion: Portion = WHOLE,
) -> tuple[Float[Array, ""], Metrics]:
    """Eqs. 18-19: the frozen language model reconstructs the trace from the latents' prefix; beside it the latents'
    text features are drawn to those of the coming event's canonical caption (ours; the paper does not say how latents
    come to speak the towers' language)."""
    variables = {"params": parameters}
    fixed = jax.lax.stop_gradient(parameters)
    features = model.apply({"params": fixed}, batch, method="read")
    latents = model.apply(variables, features, settings.schedule, method="think")
    scores = model.apply(variables, latents, batch.trace, batch.trace_mask, method="reconstruct")
    over_traces = portion.mean(lambda whole: _next(trace_labels(whole)))
    trace, right = next_token_loss(scores, batch.trace, trace_labels(batch), over_traces)
    target = model.apply({"params": fixed}, batch.canonical, batch.canonical_mask, method="encode_text")
    found, presence = model.apply(variables, latents, method="condition_by_latents")
    tokens, places = canonical_labels(batch)
    over_tokens, over_places = (portion.mean(lambda whole, i=i: canonical_labels(whole)[i]) for i in range(2))
    align = over_tokens(jnp.mean(jnp.square(found - target), -1), tokens)
    there = jnp.where(batch.canonical_mask, jax.nn.softplus(-presence), jax.nn.softplus(presence))
    there = over_places(there, places)
    loss = trace + settings.align_weight * (align + settings.presence_weight * there)
    metrics = {"trace_loss": trace, "align_loss": align, "presence_loss": there}
    metrics["trace_accuracy_loss"] = portion.constant(1) - right
    return loss, metrics | _counts(batch, batch.trace_mask)


def caption_predictors(
    scores: Float[Array, "B n vocabulary"], prompt_mask: Bool[Array, "B P"], length: int
) -> Float[Array, "B C vocabulary"]:
    """Of the scores after prompt and caption, those that predict each token of the caption: the first one is predicted
    by the prompt's last real token, wherever its padding begins."""
    prompt = prompt_mask.shape[1]
    last = jnp.sum(prompt_mask, 1) - 1
    first = jnp.take_along_axis(scores, last[:, None, None], 1)
    return jnp.concatenate([first, scores[:, prompt : prompt + length - 1]], 1)


def token_loss(
    scores: Float[Array, "B n vocabulary"],
    tokens: Int[Array, "B n"],
    mask: Bool[Array, "B n"],
    mean: Mean = masked_mean,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy of the tokens, and the share of them that are the likeliest."""
    chosen = jnp.where(mask, tokens, 0)
    loss = jax.nn.logsumexp(scores, -1) - jnp.take_along_axis(scores, chosen[..., None], -1)[..., 0]
    right = (jnp.argmax(scores, -1) == chosen).astype(jnp.float32)
    return mean(loss, mask), mean(right, mask)


def next_token_loss(
    scores: Float[Array, "B n vocabulary"],
    tokens: Int[Array, "B n"],
    mask: Bool[Array, "B n"],
    mean: Mean = masked_mean,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`token_loss` of every token but the first, each from the scores at the one before."""
    return token_loss(scores[:, :-1], tokens[:, 1:], _next(mask), mean)


def _next(tokens: Bool[Array, "B n"]) -> Bool[Array, "B rest"]:
    """All but the first, which nothing predicts."""
    return tokens[:, 1:]


def caption_labels(batch: PlanBatch) -> Bool[Array, "B C"]:
    """Caption tokens that the prompt asks for."""
    return batch.caption_mask & (batch.asked_mask & batch.row_mask)[:, None]


def trace_labels(batch: PlanBatch) -> Bool[Array, "B R"]:
    """Trace tokens that have a label and that the prompt asks for."""
    return batch.trace_label_mask & (batch.asked_mask & batch.row_mask)[:, None]


def written_labels(batch: PlanBatch) -> Bool[Array, "B R"]:
    """Trace tokens that have a label, after notes: these say all that the trace says, whatever the prompt tells."""
    return batch.trace_label_mask & batch.row_mask[:, None]


def text_labels(batch: PlanBatch) -> Bool[Array, "B L"]:
    """The caption's tokens in the text encoder's words."""
    return batch.text_mask & batch.row_mask[:, None]


def time_labels(batch: PlanBatch) -> Bool[Array, "B"]:
    """Moments whose event's end is known."""
    return batch.remaining_mask & batch.row_mask


def canonical_labels(batch: PlanBatch) -> tuple[Bool[Array, "B L"], Bool[Array, "B L"]]:
    """Where the prompt asks for the event, the tokens of its canonical caption, and all places that one could have."""
    asked = (batch.asked_mask & batch.row_mask)[:, None]
    return batch.canonical_mask & asked, jnp.broadcast_to(asked, batch.canonical_mask.shape)


def _counts(batch: PlanBatch, *masks: Bool[Array, "B _"]) -> Metrics:
    """Rows in use as "events", and their text tokens."""
    tokens = sum(jnp.sum(mask, dtype=jnp.float32) for mask in (batch.prompt_mask, *masks))
    return {"events": jnp.sum(batch.row_mask, dtype=jnp.float32), "tokens": tokens}
