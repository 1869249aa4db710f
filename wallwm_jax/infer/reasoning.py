"""The vision-language side at run time: what comes next, how long it will take, and as text features of what.

Programs are compiled once, for a fixed number of rows; short calls are padded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import PlanBatch
from wallwm_jax.data import text, tokenizer
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.planning import PlanSettings, prompt_tokens
from wallwm_jax.data.statistics import Statistics
from wallwm_jax.data.tokenizer import CaptionTokenizer, padded
from wallwm_jax.infer.denoise import TextCondition
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.stage_timer import StageTimer, timed
from wallwm_jax.models.reasoner import Reasoner


class NextEvent(NamedTuple):
    """The likeliest next event. `steps` are the control steps that it is expected to take from now on; the caption
    `traces.NOTHING` says that all is done."""

    caption: str
    steps: float


@dataclasses.dataclass(frozen=True)
class ReasoningSettings:
    """`rows` requests are worked on together; the rest is as training was told."""

    planning: PlanSettings
    text_length: int
    rows: int = 16


class Reasoning:
    """A trained vision-language side, with programs compiled ahead of time on their first use."""

    def __init__(
        self,
        model: Reasoner,
        parameters: Any,
        tokens: CaptionTokenizer,
        embodiment: Embodiment,
        statistics: Statistics,
        settings: ReasoningSettings,
        timer: StageTimer | None = None,
    ):
        self.settings, self.tokens, self.embodiment = settings, tokens, embodiment
        self._model, self._parameters, self._statistics, self._timer = model, parameters, statistics, timer
        self._programs: dict[str, Any] = {}

    @property
    def compiled(self) -> tuple[str, ...]:
        """Names of the programs compiled so far, in order."""
        return tuple(self._programs)

    def next_events(self, requests: Sequence[Request]) -> list[NextEvent]:
        """The next event of each request, its caption decoded greedily token by token.

        The caption is whatever the head says: a caller that acts on it checks it first. Raises InputError for an empty
        instruction or a prompt that is too long.
        """
        for number, request in enumerate(requests):
            if not request.instruction.strip():
                raise InputError(f"requests[{number}].instruction", repr(request.instruction), "words")
        found: list[NextEvent] = []
        for part in self._parts(requests):
            batch = self.batch(part, [""] * len(part))
            ids = np.asarray(self._run("next", batch))
            ended = np.cumsum(ids == tokenizer.END, axis=1) - (ids == tokenizer.END)
            said = batch._replace(caption=ids, caption_mask=(ended == 0) & batch.row_mask[:, None])
            steps = np.exp(np.asarray(self._run("remaining", said)))
            captions = [self.tokens.decode(row) for row in ids[: len(part)]]
            found += [NextEvent(caption, float(count)) for caption, count in zip(captions, steps, strict=False)]
        return found

    def remaining_steps(self, requests: Sequence[Request], captions: Sequence[str]) -> Float[np.ndarray, "n"]:
        """Control steps that each captioned event is expected to take from now on."""
        parts = [
            np.asarray(self._run("remaining", self.batch(part, given)))[: len(part)]
            for part, given in self._pairs(requests, captions)
        ]
        return np.exp(np.concatenate(parts)) if parts else np.zeros(0)

    def condition_of_captions(self, requests: Sequence[Request], captions: Sequence[str]) -> TextCondition:
        """Stage 3: the captions through the trunk and the project-out, in place of the text encoder; S = 1."""
        return self._collect("condition", self._pairs(requests, captions))

    def condition_of_latents(self, requests: Sequence[Request]) -> TextCondition:
        """Stage 4: the Staircase's latents through their own project-out; no caption is decoded. S = 1."""
        return self._collect("latents", [(part, [""] * len(part)) for part in self._parts(requests)])

    def batch(self, requests: Sequence[Request], captions: Sequence[str]) -> PlanBatch:
        """Requests and captions (empty: none) as `rows` rows without labels."""
        settings, rows = self.settings.planning, self.settings.rows
        batch = empty_plan_batch(rows, requests[0].observation.views.shape, settings, self.settings.text_length)
        for row, (request, caption) in enumerate(zip(requests, captions, strict=True)):
            seen = request.observation
            batch.views[row], batch.view_mask[row], batch.dof_mask[row] = seen.views, seen.view_mask, seen.dof_mask
            state = self.embodiment.encode_state(seen.state, self._statistics)
            batch.state[row] = np.where(seen.dof_mask, state, 0.0)
            blank = not request.instruction and not request.memory
            ids = prompt_tokens(self.tokens, request.instruction, request.memory, settings.memory_events, blank)
            batch.prompt[row], batch.prompt_mask[row] = padded(ids, settings.prompt_length, "planning.prompt_length")
            if caption:
                ids = [*self.tokens.encode(caption), tokenizer.END]
                batch.caption[row], batch.caption_mask[row] = padded(ids, settings.caption_length, f"{caption!r}")
                batch.text[row], batch.text_mask[row] = text.encode(caption, self.settings.text_length)
            batch.row_mask[row] = True
        return batch

    def _parts(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        rows = self.settings.rows
        return [items[first : first + rows] for first in range(0, len(items), rows)]

    def _pairs(self, requests: Sequence[Request], captions: Sequence[str]) -> list[tuple]:
        if len(requests) != len(captions):
            raise InputError("captions", len(captions), f"one for each of {len(requests)} requests")
        for number, caption in enumerate(captions):
            if not caption.strip():
                raise InputError(f"captions[{number}]", repr(caption), "words")
        return list(zip(self._parts(requests), self._parts(captions), strict=True))

    def _collect(self, name: str, parts: Sequence[tuple]) -> TextCondition:
        found = [(self._run(name, self.batch(part, given)), len(part)) for part, given in parts]
        cut = [[np.asarray(leaf)[:count] for leaf in text] for text, count in found]
        return TextCondition(*(np.concatenate(leaves) for leaves in zip(*cut, strict=True)))

    def _run(self, name: str, batch: PlanBatch) -> Any:
        if name not in self._programs:
            program = jax.jit(self._function(name))
            compiled = timed(self._timer, "compile", lambda: program.lower(self._parameters, batch).compile())
            self._programs[name] = compiled
        return timed(self._timer, "reasoning", self._programs[name], self._parameters, batch)

    def _function(self, name: str) -> Callable[..., Any]:
        length, model = self.settings.planning.caption_length, self._model
        return {
            "next": lambda parameters, batch: greedy_captions(model, parameters, batch, length),
            "remaining": lambda parameters, batch: remaining(model, parameters, batch),
            "condition": lambda parameters, batch: condition(model, parameters, batch),
            "latents": lambda parameters, batch: latent_condition(model, parameters, batch),
        }[name]


def greedy_captions(model: Reasoner, parameters: Any, batch: PlanBatch, length: int) -> Int[Array, "B C"]:
    """The likeliest token after each token, from the prompt on, with cached keys and values."""
    variables = {"params": parameters}
    features = model.apply(variables, batch, length, method="read")
    prompt = batch.prompt.shape[1]
    last = features.hidden.shape[2] - prompt + jnp.sum(batch.prompt_mask, 1) - 1
    hidden = jnp.take_along_axis(features.hidden[-1], last[:, None, None], 1)
    first = features.hidden.shape[2]

    def likeliest(hidden):
        return jnp.argmax(model.apply(variables, hidden, method="caption_scores")[:, 0], -1).astype(jnp.int32)

    def step(carry, number):
        features, token = carry
        features, hidden = model.apply(variables, features, token[:, None], first + number, method="extend")
        return (features, likeliest(hidden)), token

    memory = features._replace(hidden=features.hidden[:, :, :1])
    _, tokens = jax.lax.scan(step, (memory, likeliest(hidden)), jnp.arange(length))
    return tokens.T


def remaining(model: Reasoner, parameters: Any, batch: PlanBatch) -> Float[Array, "B"]:
    """Log control steps that remain of the batch's captions."""
    variables = {"params": parameters}
    hidden, mask = model.apply(variables, batch, method="with_caption")
    return model.apply(variables, hidden, mask, batch.state, batch.dof_mask, method="remaining_time")


def condition(model: Reasoner, parameters: Any, batch: PlanBatch) -> TextCondition:
    """Text features of the batch's captions."""
    variables, length = {"params": parameters}, batch.caption.shape[1]
    hidden, _ = model.apply(variables, batch, method="with_caption")
    found = model.apply(variables, hidden[:, -length:], batch.caption_mask, batch.text_mask, method="condition")
    return TextCondition(found[:, None], batch.text_mask[:, None], jnp.ones((len(found), 1), bool))


def latent_condition(model: Reasoner, parameters: Any, batch: PlanBatch, schedule: str = "staircase") -> TextCondition:
    """Text features of the coming event from the Staircase's latents; differentiable but for the mask."""
    variables = {"params": parameters}
    latents = model.apply(variables, model.apply(variables, batch, method="read"), schedule, method="think")
    found, presence = model.apply(variables, latents, method="condition_by_latents")
    # A caption is one stretch from the first place on, and has at least one token.
    there = jnp.cumprod((presence > 0).astype(jnp.int32), -1).astype(bool) | (jnp.arange(found.shape[1]) == 0)
    features = jnp.where(there[..., None], found, 0.0)
    return TextCondition(features[:, None], there[:, None], jnp.ones((len(found), 1), bool))


def empty_plan_batch(
    rows: int, pictures: tuple[int, int, int, int], settings: PlanSettings, text_length: int
) -> PlanBatch:
    """A batch of padding only, for pictures `[V, H, W, 3]`."""

    def tokens(length: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)

    return PlanBatch(
        np.zeros((rows, *pictures), np.uint8),
        np.zeros((rows, pictures[0]), bool),
        np.zeros((rows, 26), np.float32),
        np.zeros((rows, 26), bool),
        *tokens(settings.prompt_length),
        *tokens(settings.caption_length),
        np.zeros(rows, bool),
        *tokens(settings.trace_length),
        np.zeros((rows, settings.trace_length), bool),
        *tokens(settings.notes_length),
        *tokens(text_length),
        *tokens(text_length),
        np.ones(rows, np.float32),
        np.zeros(rows, bool),
        np.full(rows, -1, np.int32),
        np.zeros(rows, bool),
    )
