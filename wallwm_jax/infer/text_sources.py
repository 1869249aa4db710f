"""Where unified mode's text comes from. Sources differ in what they say, never in the shape of it (WALL-WM §7)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from wallwm_jax.core.types import Observation
from wallwm_jax.infer.denoise import TextCondition

Encode = Callable[[Sequence[str]], TextCondition]
"""Captions to a condition with a row for each, such as `UnifiedMode.encode`."""


class TextRequest(NamedTuple):
    """What a source may look at, for one robot and one chunk."""

    instruction: str
    """The global instruction."""
    observation: Observation
    """The current one."""
    chunk: int
    """Chunks of this rollout that came before."""
    done: tuple[str, ...] = ()
    """Captions of the events that are over, in order."""
    caption: str | None = None
    """The event that is due, where somebody knows it."""


@runtime_checkable
class TextSource(Protocol):
    """Anything that answers requests with a condition of a row for each, S = 1."""

    def condition(self, requests: Sequence[TextRequest]) -> TextCondition: ...


class InstructionSource:
    """The global instruction, encoded when it is first seen and reused verbatim from then on."""

    def __init__(self, encode: Encode):
        self._encode, self._known = encode, {}

    def condition(self, requests: Sequence[TextRequest]) -> TextCondition:
        """Raises InputError if an instruction is too long."""
        wanted = [request.instruction for request in requests]
        unknown = [text for text in dict.fromkeys(wanted) if text not in self._known]
        if unknown:
            encoded = self._encode(unknown)
            encoded = encoded._replace(told_event=np.zeros_like(encoded.told_event))
            for text, *row in zip(unknown, *encoded, strict=True):
                self._known[text] = TextCondition(*row)
        return TextCondition(*(np.stack(rows) for rows in zip(*(self._known[text] for text in wanted), strict=True)))


class CaptionSource:
    """One atomic instruction a chunk, from `caption`: a person, an agent, a planner."""

    def __init__(self, encode: Encode, caption: Callable[[TextRequest], str]):
        self._encode, self._caption = encode, caption

    def condition(self, requests: Sequence[TextRequest]) -> TextCondition:
        """Raises InputError if a caption is too long."""
        return self._encode([self._caption(request) for request in requests])
