"""A file is whole or not there."""

import hashlib

import pytest

from wallwm_jax.core.files import file_digest, sync_directory, write_durably


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    """Until the new content is on the disk the name belongs to the old one; no other name is left, not by
    a failure either. Bytes are written as they are."""
    path = tmp_path / "seconds.json"
    write_durably(path, "old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_durably(path, "new")
    assert path.read_text() == "old" and [child.name for child in tmp_path.iterdir()] == ["seconds.json"]
    monkeypatch.undo()
    write_durably(path, b"new")
    sync_directory(tmp_path)
    assert path.read_text() == "new" and [child.name for child in tmp_path.iterdir()] == ["seconds.json"]
    assert file_digest(path) == hashlib.sha256(b"new").hexdigest()
