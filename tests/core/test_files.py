"""A file is whole or not there."""

import contextlib
import hashlib
import os
import pathlib
import tempfile

import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import check_writable, file_digest, sync_directory, write_durably


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


@contextlib.contextmanager
def read_only_folder():
    """A folder in which this process cannot write; root could, and is somebody else as long as it lasts."""
    with tempfile.TemporaryDirectory() as name:
        user = os.geteuid()
        os.chmod(name, 0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            yield pathlib.Path(name)
        finally:
            os.seteuid(user)
            os.chmod(name, 0o700)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    """Read-only, below a read-only one, or below a file; the message has the field and the reason. One that is not
    there yet is made, and nothing else is left in it."""
    with read_only_folder() as folder:
        for path in (folder, folder / "run"):
            with pytest.raises(InputError, match=f"--workdir {path}: found Permission denied, expected a folder"):
                check_writable(path, "--workdir")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="found Not a directory"):
        check_writable(tmp_path / "file" / "run", "--workdir")
    check_writable(tmp_path / "new" / "run", "--workdir")
    assert not list((tmp_path / "new" / "run").iterdir())
