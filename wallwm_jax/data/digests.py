"""SHA-256 of the files of a dataset, each read again only when it may have changed.

A digest is kept in `DIGESTS` with the size of its file and the times of its last change, of content (mtime) and of
anything (ctime, which no program can set back). A file is read again when one of the three differs, or when it was so
young when it was read that a later change could carry the same time. A folder that has not changed costs one `stat` a
file; reading costs one pass at the speed of SHA-256, in threads: 1 to 2 GB/s a core with SHA instructions, a third of
that without. A copied folder is read once, and then known.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from wallwm_jax.core.files import file_digest, write_durably

DIGESTS = "digests.json"
SETTLED = 2.0
"""Seconds after which a change of a file is told from the one before by its time: FAT counts in steps of 2."""
THREADS = 8


class Known(NamedTuple):
    """What a file was when it was read: its size in bytes, mtime and ctime in nanoseconds, and its SHA-256. A ctime of
    0 says that the file must be read again."""

    size: int
    modified: int
    changed: int
    sha256: str


def file_digests(root: pathlib.Path, names: Iterable[str], *, save: bool = True) -> dict[str, str]:
    """SHA-256 of the files `names` below `root`, by name. With `save` what has been read is kept in `root`, if that can
    be written.

    Raises OSError for a file that cannot be read.
    """
    before, names = _read(root / DIGESTS), sorted(names)
    with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        now = dict(zip(names, pool.map(lambda name: _known(root / name, before.get(name)), names), strict=True))
    if save and any(before.get(name) != known for name, known in now.items()):
        with contextlib.suppress(OSError):  # without it the next reader reads again
            write_durably(root / DIGESTS, json.dumps({**before, **now}, indent=0))
    return {name: known.sha256 for name, known in now.items()}


def combined_digest(digests: Mapping[str, str]) -> str:
    """SHA-256 over the names and digests of many files."""
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def _known(path: pathlib.Path, before: Known | None) -> Known:
    """The file as it was read before if it is the same, or as it is read now."""
    stat = path.stat()  # before reading: a change in the meantime has another time
    found = Known(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, "")
    if before is not None and before[:3] == found[:3]:
        return before
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED
    return found._replace(changed=found.changed if settled else 0, sha256=file_digest(path))


def _read(path: pathlib.Path) -> dict[str, Known]:
    """What is known; nothing if the file of digests is missing or damaged."""
    try:
        return {name: Known(*row) for name, row in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
