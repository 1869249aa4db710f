"""The compiled programs that event mode and unified mode share, and the order in which a prediction runs them."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.model import Model
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data import text
from wallwm_jax.infer import denoise
from wallwm_jax.infer.denoise import Condition, SolverSettings, TextCondition
from wallwm_jax.infer.stage_timer import StageTimer, timed

Text = Sequence[str] | TextCondition
"""What a prediction is told: events' captions for the model's own text encoder, or their like from elsewhere, S = 1."""

STAGES = {
    "text": "text",
    "observe": "encode",
    "noise": "noise",
    "foresee": "video",
    "video": "video",
    "act": "action",
    "show": "decode",
}
"""Program -> the stage of a prediction that its seconds belong to; compiling is a stage of its own, "compile"."""


@runtime_checkable
class Layout(Protocol):
    """The array sizes that are compiled for."""

    buckets: tuple[int, ...]
    """Latent slots, ascending."""
    observed_slots: int
    text_length: int

    def actions(self, bucket: int) -> int:
        """Action slots of a bucket."""


class Programs:
    """Programs compiled ahead of time on first use, each for one number of rows and one bucket of latent slots.

    Solver step counts are no part of a program: the video's steps are taken one call at a time. With a `timer` every
    program is waited for and its seconds are added to its stage.
    """

    def __init__(
        self,
        model: Model,
        parameters: Any,
        rows: int,
        layout: Layout,
        solver: SolverSettings,
        timer: StageTimer | None = None,
    ):
        self.rows, self.layout, self.solver = rows, layout, solver
        self._model, self._parameters, self._timer = model, parameters, timer
        self._compiled: dict[tuple[str, int], Any] = {}

    @property
    def compiled(self) -> tuple[tuple[str, int], ...]:
        """(program, bucket) of every program compiled so far, in order; bucket 0 is what all buckets share."""
        return tuple(self._compiled)

    def run(self, name: str, bucket: int, *arguments: Any) -> Any:
        """Compiles ahead of time on first use, so that a program can never be traced again behind our back."""
        if (name, bucket) not in self._compiled:
            program = jax.jit(self._function(name))
            self._compiled[name, bucket] = timed(self._timer, "compile", lambda: program.lower(*arguments).compile())
        return timed(self._timer, STAGES[name], self._compiled[name, bucket], *arguments)

    def condition(self, given: Text, count: int) -> TextCondition:
        """The text of `count` predictions with L = `layout.text_length`, as numpy arrays [count, 1, L, width].

        Raises InputError if there is not one text for each, or one is too long.
        """
        length = self.layout.text_length
        found = len(given.mask) if isinstance(given, TextCondition) else len(given)
        if found != count:
            raise InputError("captions", found, f"one for each of {count} observations")
        if isinstance(given, TextCondition):
            if given.mask.shape[1] != 1 or given.features.shape[:3] != given.mask.shape:
                shapes = f"features {given.features.shape}, mask {given.mask.shape}"
                raise InputError("text condition", shapes, "[B, 1, L, width] and [B, 1, L]")
            arrays = (np.asarray(given.features, np.float32), np.asarray(given.mask), np.asarray(given.told_event))
            return TextCondition(*arrays).padded(length)
        parts = [self._encode(given[first : first + self.rows]) for first in range(0, count, self.rows)]
        return TextCondition(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _encode(self, captions: Sequence[str]) -> TextCondition:
        tokens = np.zeros((self.rows, 1, self.layout.text_length), np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, caption in enumerate(captions):
            tokens[row, 0], mask[row, 0] = text.encode(caption, self.layout.text_length)
        encoded = self.run("text", 0, self._parameters, tokens, mask)
        return TextCondition(*(np.asarray(part)[: len(captions)] for part in encoded))

    def observe(self, batch: EventBatch, given: TextCondition, chosen: Sequence[int]) -> tuple[Condition, Array | None]:
        """What the rows of `batch` condition on, with the texts `chosen` of `given`; and the expected control steps,
        None if the model has no duration head."""
        rows = TextCondition(*(_rows(part, chosen, self.rows) for part in given))
        return self.run("observe", 0, self._parameters, batch, rows)

    def noise(self, key: PRNGKeyArray, chosen: Sequence[int], given: Condition, bucket: int) -> tuple[Array, Array]:
        """Noise of video and actions: of `key` and each prediction's number alone, never of what it is told."""
        numbers = _rows(np.asarray(chosen, np.int32), range(len(chosen)), self.rows)
        return self.run("noise", 0, key, numbers, given)[bucket]

    def denoise(
        self, bucket: int, batch: EventBatch, given: Condition, noise: tuple[Array, Array], dream: bool
    ) -> tuple[Float[np.ndarray, "B A 26"], UInt8[np.ndarray, "B F R V H W 3"] | None, np.ndarray]:
        """Video to the anchor time, actions on the features there, and the rest of the video if it is wanted.

        Returns normalised actions, frames or None, and whether each row's video is finite.
        """
        sample, action_noise = noise
        sketch = self.run("foresee", bucket, self._parameters, batch, given)
        for step in itertools.pairwise(self.solver.times_to_anchor()):
            sample, _ = self.run("video", bucket, self._parameters, batch, given, sketch, sample, *step)
        rest = self.solver.times_from_anchor()
        anchor = (rest[0], rest[min(1, len(rest) - 1)])
        sample, features = self.run("video", bucket, self._parameters, batch, given, sketch, sample, *anchor)
        actions = np.asarray(self.run("act", bucket, self._parameters, batch, given, action_noise, features))
        if not dream:
            return actions, None, np.ones(self.rows, bool)
        for step in itertools.pairwise(rest[1:]):
            sample, _ = self.run("video", bucket, self._parameters, batch, given, sketch, sample, *step)
        frames, finite = self.run("show", bucket, self._parameters, batch, given, sample)
        return actions, np.asarray(frames), np.asarray(finite)

    def _function(self, name: str) -> Callable[..., Any]:
        model, layout = self._model, self.layout
        return {
            "text": functools.partial(denoise.encode_text, model),
            "observe": functools.partial(denoise.observe, model, observed_slots=layout.observed_slots),
            "noise": self._noise,
            "foresee": functools.partial(denoise.foresee, model),
            "video": functools.partial(denoise.video_step, model),
            "act": functools.partial(denoise.act, model, settings=self.solver),
            "show": functools.partial(denoise.show, model),
        }[name]

    def _noise(self, key: PRNGKeyArray, indices: Int[Array, "B"], given: Condition) -> dict[int, tuple[Array, Array]]:
        """Noise for every bucket, cut from that of the longest: a longer bucket leaves an event's noise as it is."""
        layout = self.layout
        longest = layout.buckets[-1]
        shapes = (longest, *given.observed.shape[2:]), (self.solver.samples, layout.actions(longest), 26)
        video, actions = denoise.draw_noise(key, indices, *shapes)
        return {bucket: (video[:, :bucket], actions[:, :, : layout.actions(bucket)]) for bucket in layout.buckets}


def without_text(given: Text) -> list[int]:
    """The predictions that are told nothing: a blank caption, or a condition all of whose tokens are masked."""
    if isinstance(given, TextCondition):
        return np.flatnonzero(~np.asarray(given.mask).any((1, 2))).tolist()
    return [place for place, caption in enumerate(given) if not caption.strip()]


def _rows(values: np.ndarray, chosen: Sequence[int], rows: int) -> np.ndarray:
    """`values` at `chosen`, and zeros up to `rows`."""
    result = np.zeros((rows, *values.shape[1:]), values.dtype)
    result[: len(chosen)] = np.asarray(values)[list(chosen)]
    return result


def film(frames: UInt8[np.ndarray, "F R V H W 3"], observed_slots: int) -> UInt8[np.ndarray, "T V H W 3"]:
    """The current observation once, then every raw frame of every later latent; F counts real slots alone, of which
    the first `observed_slots` are given."""
    current = frames[observed_slots - 1, -1:]
    return np.concatenate([current, frames[observed_slots:].reshape(-1, *frames.shape[2:])])
