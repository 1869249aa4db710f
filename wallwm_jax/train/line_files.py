"""Files of JSON lines beside a run: appended to while it trains, and never a reason to lose what it has trained."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import write_durably

Line = dict[str, Any]
Note = Callable[[str], None]
"""Tells a person one line of text."""


class LineFile:
    """Appends JSON objects to `path`, each with numbers under the names `fields`. `lines` are those that were there.

    Damaged lines are set aside when the file is opened: the file as it was is copied beside it and `note` says so. A
    line that cannot be written is kept and written with the next one; `note` is told of the first failure.

    Raises InputError if the file cannot be read, or not written when it is opened.
    """

    def __init__(self, path: pathlib.Path, fields: Collection[str], note: Note = print):
        self.path, self._note, self._pending, self._failing = path, note, "", False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lines, damaged = _parsed(path, fields)
            if damaged:
                copy = _free_name(path)
                shutil.copyfile(path, copy)
                note(f"{path}: line {damaged[0]} is damaged; the file as it was is kept as {copy.name}")
            self.keep(lambda line: True)
        except OSError as error:
            raise InputError(str(path), error.strerror or error, "a file that can be read and written") from error

    def keep(self, wanted: Callable[[Line], bool]) -> None:
        """Rewrites the file with the lines that are wanted."""
        self.lines = [line for line in self.lines if wanted(line)]
        write_durably(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line, after those that could not be written before."""
        self._pending += json.dumps(dict(line)) + "\n"
        try:
            _append_whole(self.path, self._pending)
        except OSError as error:
            if not self._failing:
                self._note(f"{self.path} cannot be written ({error.strerror or error}); training goes on without it")
            self._failing = True
        else:
            self._pending, self._failing = "", False


def read_lines(path: pathlib.Path, fields: Collection[str], expected: str) -> list[Line]:
    """The lines that a `LineFile` has written; raises InputError if there is no such file, or naming a damaged line."""
    if not path.exists():
        raise InputError(str(path), "no such file", expected)
    try:
        lines, damaged = _parsed(path, fields)
    except OSError as error:
        raise InputError(str(path), error.strerror or error, expected) from error
    if damaged:
        numbers = " and ".join(repr(field) for field in fields)
        raise InputError(f"{path}: line {damaged[0]}", "damaged text", f"a JSON object with numbers {numbers}")
    return lines


def existing_lines(path: pathlib.Path, fields: Collection[str]) -> list[Line]:
    """The undamaged lines of a file that need not be there."""
    try:
        return _parsed(path, fields)[0] if path.is_file() else []
    except OSError:
        return []


def _parsed(path: pathlib.Path, fields: Collection[str]) -> tuple[list[Line], list[int]]:
    """Lines, and the numbers of damaged ones, from 1. A last line that was cut off while being written is no damage."""
    lines, damaged = [], []
    texts = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text.decode())
            whole = all(isinstance(line[field], int | float) for field in fields)
        except (ValueError, LookupError, TypeError):
            whole = False
        if whole:
            lines.append(line)
        else:
            damaged.append(number)
    return lines, damaged


def _append_whole(path: pathlib.Path, text: str) -> None:
    """Appends all of the text or, as far as the disk lets it, none."""
    with path.open("ab", buffering=0) as file:
        before, left = file.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """`<name>.damaged`, or the first of `.damaged2`, `.damaged3` ... that is not there."""
    names = (path.with_name(f"{path.name}.damaged{number if number > 1 else ''}") for number in range(1, 1000))
    return next(name for name in names if not name.exists())
