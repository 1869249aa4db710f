"""Digests of files: always those of their content, and read no oftener than needed."""

import hashlib
import os
import time

import pytest

from wallwm_jax.data import digests
from wallwm_jax.data.digests import DIGESTS, combined_digest, file_digests

NAMES = ("a.npy", "sub/b.npy")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two files, and `read`: the names of those that have been read since it was emptied."""
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        (tmp_path / name).write_text(name)
    digest = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path.name) or digest(path))
    read = []
    return tmp_path, read


def _later(monkeypatch, seconds=10.0):
    now = time.time() + seconds
    monkeypatch.setattr(digests.time, "time", lambda: now)


def test_what_has_not_changed_is_not_read_again(folder, monkeypatch):
    """Once the files have settled they are read once more, and never again, until one of them changes."""
    root, read = folder
    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in NAMES}
    assert file_digests(root, NAMES) == expected and len(read) == 2
    _later(monkeypatch)
    for count in (4, 4, 4):
        assert file_digests(root, NAMES) == expected and len(read) == count
    (root / "a.npy").write_text("other")
    assert file_digests(root, NAMES)["a.npy"] == hashlib.sha256(b"other").hexdigest() and len(read) == 5


def test_a_change_that_hides_is_found(folder, monkeypatch):
    """The same size and the same time of modification, right after it was read and long after that."""
    root, _ = folder
    path = root / "a.npy"
    before = path.stat().st_mtime_ns
    for text in ("A.npy", "b.npy"):
        file_digests(root, NAMES)
        path.write_text(text)
        os.utime(path, ns=(before, before))
        assert file_digests(root, NAMES)["a.npy"] == hashlib.sha256(text.encode()).hexdigest()
        _later(monkeypatch)


@pytest.mark.parametrize("text", ["{", "[]", '{"a.npy": 3}', '{"a.npy": [1]}'])
def test_damaged_digests_are_no_digests(folder, monkeypatch, text):
    """The files are read again; a folder that cannot be written keeps none."""
    root, _ = folder
    (root / DIGESTS).write_text(text)
    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in NAMES}
    assert file_digests(root, NAMES, save=False) == expected and (root / DIGESTS).read_text() == text
    assert file_digests(root, NAMES) == expected and (root / DIGESTS).read_text() != text

    def refuse(path, content):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(digests, "write_durably", refuse)
    (root / DIGESTS).unlink()
    assert file_digests(root, NAMES) == expected and not (root / DIGESTS).exists()


def test_the_combined_digest_knows_names_and_contents():
    """Two files that change their places are another dataset; the order in which they are named is none."""
    pairs = {"a": "1", "b": "2"}
    assert combined_digest(pairs) == combined_digest(dict(reversed(pairs.items())))
    assert len({combined_digest(d) for d in (pairs, {"a": "2", "b": "1"}, {"a": "1"}, {"a": "1", "c": "2"})}) == 4
