"""The manifest of a saved step: what was saved, and the size and SHA-256 of every file.

It is written last and checks itself, so that a flipped bit in any file of a step is noticed, in its own text too. A
folder is a step when it has one. Until then, and while it is removed, it has an empty file `UNCOMMITTED`, which tells
it from a step that has lost its manifest.
"""

import hashlib
import json
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import file_digest, write_durably
from wallwm_jax.core.message_board import MessageBoard

MANIFEST, UNCOMMITTED = "manifest.json", "uncommitted"
Json = Mapping[str, Any]


class Damage(NamedTuple):
    """A file that is not what was saved."""

    path: pathlib.Path
    found: str
    expected: str

    def error(self) -> InputError:
        return InputError(f"checkpoint file {self.path}", self.found, self.expected)


def write_manifest(folder: pathlib.Path, content: Json) -> None:
    """Adds the sizes and digests of all files below `folder` to `content`, and saves it there."""
    rows = {name: _row(path) for name, path in _files(folder).items()}
    write_durably(folder / MANIFEST, _text({**content, "files": rows}))


def read_manifest(folder: pathlib.Path) -> Json:
    """What `write_manifest` saved; raises InputError if it is missing or differs from that in any character."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode()
        manifest = json.loads(text)
        found = manifest.pop("digest")
        whole = text == _text(manifest)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise Damage(path, f"{type(error).__name__}: {error}", "the manifest of a saved step").error() from error
    if not whole:
        raise Damage(path, f"damaged text (its digest says {str(found)[:12]})", "the text that was saved").error()
    return manifest


def damaged_files(folder: pathlib.Path, manifest: Json, names: Collection[str] | None = None) -> Iterator[Damage]:
    """Every file that is missing, changed or new since the manifest was written; of `names` alone if they are given."""
    rows, present = manifest["files"], _files(folder)
    for name in sorted({*rows, *present} if names is None else names):
        found, expected = _row_or_reason(present.get(name)), rows.get(name, "no such file")
        if found != expected:
            yield Damage(folder / name, _said(found), _said(expected))


def check_files(folder: pathlib.Path, manifest: Json, names: Collection[str] | None = None) -> None:
    """Raises InputError naming the first damaged file."""
    for damage in damaged_files(folder, manifest, names):
        raise damage.error()


def check_files_together(folder: pathlib.Path, manifest: Json, board: MessageBoard | None) -> None:
    """`check_files` of all files for every process of a run, which must all call this: those on one machine share the
    files among them, and all raise the same InputError if any of them finds a damaged one."""
    if board is None:
        check_files(folder, manifest)
        return
    rows, mates = manifest["files"], board.neighbours()
    largest_first = sorted({*rows, *_files(folder)}, key=lambda name: (-rows.get(name, {"bytes": 0})["bytes"], name))
    own = largest_first[mates.index(board.index) :: len(mates)]
    damage = next(damaged_files(folder, manifest, own), None)
    text = "" if damage is None else json.dumps([str(damage.path), damage.found, damage.expected])
    if said := board.decide(f"wallwm_files{folder}", text, lambda texts: next(filter(None, texts), "")):
        path, *rest = json.loads(said)
        raise Damage(pathlib.Path(path), *rest).error()


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Every file below `folder` but the manifest itself and the mark, by its path from there."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if name not in (MANIFEST, UNCOMMITTED)}


def _row(path: pathlib.Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _row_or_reason(path: pathlib.Path | None) -> dict[str, Any] | str:
    if path is None:
        return "no such file"
    try:
        return _row(path)
    except OSError as error:
        return f"unreadable ({error})"


def _said(row: dict[str, Any] | str) -> str:
    return row if isinstance(row, str) else f"{row['bytes']} bytes with digest {row['sha256'][:12]}"


def _text(manifest: Json) -> str:
    """The one spelling of a manifest, with the digest of its content."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**manifest, "digest": digest}, indent=1, sort_keys=True) + "\n"
