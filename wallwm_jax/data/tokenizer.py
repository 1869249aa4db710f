"""The vision-language trunk's tokens: byte-pair encoding learned from a dataset's own captions, so that a caption is a
few words long rather than dozens of bytes. The world model's text encoder has its own tokens (`data.text`)."""

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from wallwm_jax.core.errors import InputError

SPECIAL = ("<pad>", "<end>", "<unknown>", "<instruction>", "<done>", "<next>", "<trace>", "<notes>")
PAD, END, UNKNOWN, INSTRUCTION, DONE, NEXT, TRACE, NOTES = range(len(SPECIAL))
"""`<unknown>` stands where a label is missing, so that nothing is read into its place."""


class CaptionTokenizer:
    """Text to ids and back. Any text can be encoded: what was never seen falls back to bytes."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._encoded: dict[str, list[int]] = {}

    @classmethod
    def train(cls, texts: Iterable[str], size: int = 512) -> "CaptionTokenizer":
        """Merges learned from the distinct texts in sorted order: a function of the set of texts alone."""
        tokenizer = Tokenizer(models.BPE())
        # Digits one by one: a percentage must not become a word of its own.
        splits = [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(sorted(set(texts)), trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "CaptionTokenizer":
        """Raises InputError if the file is missing, damaged or of other special tokens."""
        try:
            tokenizer = Tokenizer.from_str(pathlib.Path(path).read_text())
        except Exception as error:  # the library raises a bare Exception for a damaged file
            raise InputError(str(path), error, "a tokenizer file that curation wrote") from error
        found = [tokenizer.id_to_token(number) for number in range(len(SPECIAL))]
        if found != list(SPECIAL):
            raise InputError(f"{path}: special tokens", found, list(SPECIAL))
        return cls(tokenizer)

    def save(self, path: str | pathlib.Path) -> None:
        pathlib.Path(path).write_text(self._tokenizer.to_str())

    @property
    def size(self) -> int:
        """Ids are below this."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids without any special token; each text is encoded once."""
        if text not in self._encoded:
            self._encoded[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return list(self._encoded[text])

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The half-open span of characters behind every id of `encode(text)`."""
        return self._tokenizer.encode(text, add_special_tokens=False).offsets

    def decode(self, ids: Sequence[int] | Int[np.ndarray, "n"]) -> str:
        """The text before the first `<end>`, special tokens left out."""
        ids = [int(number) for number in ids]
        ids = ids[: ids.index(END)] if END in ids else ids
        return self._tokenizer.decode([number for number in ids if number >= len(SPECIAL)]).strip()


def padded(ids: Sequence[int], length: int, field: str) -> tuple[Int[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Ids and their mask, padded to `length`; raises InputError naming `field` if they do not fit."""
    if len(ids) > length:
        raise InputError(field, f"{len(ids)} tokens", f"at most {length}")
    result = np.full(length, PAD, np.int32)
    result[: len(ids)] = ids
    return result, np.arange(length) < len(ids)
