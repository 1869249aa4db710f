"""Tokens of captions: everything can be said, and the same texts give the same tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.data import tokenizer
from wallwm_jax.data.tokenizer import CaptionTokenizer, padded

TEXTS = ["move the red puck to the mat", "place the red puck on the mat", "done: nothing. now: 40 %."]
TOKENS = CaptionTokenizer.train(TEXTS, 320)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
@settings(max_examples=50)
def test_any_text_comes_back(text):
    """Seen or not, in any script; blanks at the ends do not count."""
    assert TOKENS.decode([*TOKENS.encode(text), tokenizer.END, 9]) == text.strip()
    assert all(len(tokenizer.SPECIAL) <= number < TOKENS.size for number in TOKENS.encode(text))


def test_words_of_the_captions_are_single_tokens_and_digits_are_apart():
    """A caption is as long as its words; a percentage is two tokens, so that it can be wrong by one."""
    assert len(TOKENS.encode("place the puck on the mat")) == 6
    assert len(TOKENS.encode("40")) - len(TOKENS.encode("4")) == 1


def test_tokens_are_a_function_of_the_set_of_texts(tmp_path):
    """Order and repetition do not matter, and a saved tokenizer is the same one."""
    again = CaptionTokenizer.train([*reversed(TEXTS), TEXTS[0]], 320)
    TOKENS.save(tmp_path / "tokenizer.json")
    loaded = CaptionTokenizer.load(tmp_path / "tokenizer.json")
    for text in (*TEXTS, "something else"):
        assert TOKENS.encode(text) == again.encode(text) == loaded.encode(text)


def test_bad_files_and_long_texts_are_named(tmp_path):
    """A missing file, a damaged one, one without our special tokens; a text that does not fit."""
    with pytest.raises(InputError, match=r"none\.json"):
        CaptionTokenizer.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"bad\.json"):
        CaptionTokenizer.load(tmp_path / "bad.json")
    TOKENS.save(tmp_path / "other.json")
    (tmp_path / "other.json").write_text((tmp_path / "other.json").read_text().replace("<done>", "<past>"))
    with pytest.raises(InputError, match="special tokens"):
        CaptionTokenizer.load(tmp_path / "other.json")
    with pytest.raises(InputError, match=r"caption: found 3 tokens, expected at most 2"):
        padded([5, 6, 7], 2, "caption")
