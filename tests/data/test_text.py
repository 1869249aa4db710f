"""Byte tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.data import text


@given(caption=st.text(max_size=20))
def test_decode_inverts_encode(caption):
    """Any text comes back; the mask covers its bytes and the end token, and ids stay inside the vocabulary."""
    ids, mask = text.encode(caption, 100)
    assert text.decode(ids) == caption
    assert mask.sum() == len(caption.encode()) + 1 == text.token_count(caption)
    assert (ids[~mask] == text.PAD).all() and ids.max() < text.VOCABULARY
    assert ids[mask][-1] == text.END and np.all(ids[mask][:-1] >= text.FIRST_BYTE)


def test_too_long_is_refused():
    """A caption is never cut silently."""
    text.encode("a" * 9, 10)
    with pytest.raises(InputError, match="11 tokens"):
        text.encode("a" * 10, 10)
