"""Where the text of a prediction comes from. Sources differ in what they say, never in the shape of it (WALL-WM §7)."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.denoise import TextCondition
from wallwm_jax.infer.request import Request

CAPTION, INSTRUCTION, LATENTS, PLANNER = "caption", "instruction", "latents", "planner"
"""Names of the sources: a caption that is given with every request; the global instruction; the Staircase's latents;
the next event that the model's own caption head names."""

Encode = Callable[[Sequence[str]], TextCondition]
"""Captions to a condition with a row for each, such as `UnifiedMode.encode`."""


@runtime_checkable
class TextSource(Protocol):
    """Anything that answers requests with a condition of a row for each, S = 1."""

    def condition(self, requests: Sequence[Request]) -> TextCondition: ...


class InstructionSource:
    """The global instruction, encoded when it is first seen and reused verbatim from then on."""

    def __init__(self, encode: Encode):
        self._encode, self._known = encode, {}

    def condition(self, requests: Sequence[Request]) -> TextCondition:
        """Raises InputError if an instruction is blank or too long."""
        for request in requests:
            if not request.instruction.strip():
                found = repr(request.instruction)
                raise InputError(f"instruction of robot {request.scene}", found, "the task, in words")
        wanted = [request.instruction for request in requests]
        unknown = [text for text in dict.fromkeys(wanted) if text not in self._known]
        if unknown:
            encoded = self._encode(unknown)
            encoded = encoded._replace(told_event=np.zeros_like(encoded.told_event))
            for text, *row in zip(unknown, *encoded, strict=True):
                self._known[text] = TextCondition(*row)
        return TextCondition(*(np.stack(rows) for rows in zip(*(self._known[text] for text in wanted), strict=True)))


class CaptionSource:
    """One atomic instruction a prediction, from `caption`: a person, an agent, a planner."""

    def __init__(self, encode: Encode, caption: Callable[[Request], str] | None = None):
        """Without `caption` it is the request's own."""
        self._encode, self._caption = encode, caption or due_caption

    def condition(self, requests: Sequence[Request]) -> TextCondition:
        """Blank captions are masked altogether: told nothing, the modes hold still and say so. Raises InputError if a
        caption is missing or too long."""
        captions = [self._caption(request) for request in requests]
        encoded, told = self._encode(captions), np.array([bool(caption.strip()) for caption in captions])
        return encoded._replace(mask=encoded.mask & told[:, None, None])


def due_caption(request: Request) -> str:
    """The request's caption; raises InputError if it has none."""
    if request.caption is None:
        raise InputError(f"caption of robot {request.scene}", None, "the event that is due, in words")
    return request.caption
