"""Captions as bytes: id 0 pads, id 1 ends a caption, byte b is id b + 3 (2 is unused, as T5's unknown)."""

import numpy as np
from jaxtyping import Bool, Int

from wallwm_jax.core.errors import InputError

PAD, END, FIRST_BYTE = 0, 1, 3
VOCABULARY = FIRST_BYTE + 256


def token_count(text: str) -> int:
    """Tokens that `encode` needs for `text`, the end token included."""
    return len(text.encode()) + 1


def encode(text: str, length: int) -> tuple[Int[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Ids and mask of `text` and its end token, padded to `length`; raises InputError if they do not fit."""
    if token_count(text) > length:
        raise InputError(f"caption {text!r}", f"{token_count(text)} tokens", f"at most {length}")
    ids = np.full(length, PAD, np.int32)
    ids[: token_count(text)] = [byte + FIRST_BYTE for byte in text.encode()] + [END]
    return ids, np.arange(length) < token_count(text)


def decode(ids: Int[np.ndarray, "L"]) -> str:
    """The text before the first end token."""
    ids = np.asarray(ids)
    stop = np.flatnonzero(ids == END)
    ids = ids[: stop[0]] if stop.size else ids
    return bytes(int(i) - FIRST_BYTE for i in ids if i >= FIRST_BYTE).decode(errors="replace")
