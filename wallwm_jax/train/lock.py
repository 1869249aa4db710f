"""One writer a directory."""

import fcntl
import json
import os
import pathlib
import socket

import jax

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import check_writable

LOCK = "lock"


class DirectoryLock:
    """While it is entered no other run can enter it for the same directory; the kernel releases it when the process
    dies, however it dies. Of several processes of one run the first holds it.

    Raises InputError on entering: naming the process and the host of the holder, or if the directory cannot be written.
    """

    def __init__(self, directory: str | pathlib.Path):
        self._path = pathlib.Path(directory) / LOCK

    def __enter__(self) -> "DirectoryLock":
        if jax.process_index() != 0:
            return self
        check_writable(self._path.parent, "directory")
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = f"{_holder(self._path)} writing there"
            self._file.close()
            raise InputError(f"directory {self._path.parent}", found, "no other run") from error
        self._file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, self._file)
        self._file.flush()
        return self

    def __exit__(self, *error: object) -> None:
        if jax.process_index() == 0:
            self._file.close()


def _holder(path: pathlib.Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on host {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has the lock and has not said yet who it is
