"""Files that are whole or not there, and their digests."""

import hashlib
import os
import pathlib
import tempfile

from wallwm_jax.core.errors import InputError


def write_durably(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file that has reached the disk, whole, before it has its name; text as UTF-8.

    Raises OSError naming the file, of which nothing new is left then.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # that of a write, unlike that of opening, does not know its file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: pathlib.Path, field: str) -> None:
    """Makes the folder if it is not there; raises InputError under the name `field` if no file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{field} {folder}", error.strerror or error, "a folder that can be written") from error


def sync_directory(path: pathlib.Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
