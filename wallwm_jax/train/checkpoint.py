"""Checkpoints: one committed directory a step with the arrays and everything needed to understand them.

    <directory>/<step>/state/          arrays (Orbax), named by their paths in the state
    <directory>/<step>/config.json, statistics.json, embodiment.json, model.json, sources.json, changes.json
    <directory>/<step>/manifest.json   shapes, dtypes and checksums of the arrays, a digest of every file, the progress

Orbax does not notice damaged array data, casts dtypes silently, and can name a step whose write has failed. Here a step
is committed by its manifest, one file that is written last: no folder is renamed, which an object store does file by
file. Everything that is read is checked against it. The checksums are those of the live state: beside the digests of
the files they prove that what was written is what was trained.
"""

import json
import pathlib
import shutil
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.files import sync_directory, write_durably
from wallwm_jax.core.message_board import message_board
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.train.checksums import ShardPiece, checksums, own_pieces, spans_processes, total
from wallwm_jax.train.manifest import (
    MANIFEST,
    UNCOMMITTED,
    check_files,
    check_files_together,
    read_manifest,
    write_manifest,
)

KEEP = 2
"""Checkpoints of a run that are kept."""
Json = Mapping[str, Any]
_NOTHING: Json = types.MappingProxyType({})
Placement = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
"""Where an array of a state is to lie, by its path and shape."""


class Records(NamedTuple):
    """The JSON files beside the arrays; `model` is the architecture, compared on restoring."""

    config: Json
    statistics: Json
    embodiment: Json
    model: Json
    sources: Json = _NOTHING
    """Fingerprints of what the data is drawn from."""
    changes: Json = _NOTHING
    """By step: what a resumed run was allowed to change there, and how it differed."""


class Checkpoint(NamedTuple):
    """What inference and the next stage read: nested dicts of parameters, raw and with the trained part averaged."""

    step: int
    parameters: Any
    averaged: Any
    records: Records
    progress: Json


class CheckpointStore:
    """The checkpoints of one stage of one run, the newest `keep` of them, written in the background.

    Only one process group may write into a directory at a time (`lock.DirectoryLock`). `before_commit(step, folder)`
    runs in the background when everything but the manifest has been written.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        keep: int = KEEP,
        before_commit: Callable[[int, pathlib.Path], None] | None = None,
    ):
        self.directory, self.keep, self._before_commit = pathlib.Path(directory).absolute(), keep, before_commit
        self.directory.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            _clear_uncommitted(self.directory)
        in_place = ocp.path.atomicity.CommitFileTemporaryPath
        self._arrays = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler(), temporary_path_class=in_place)
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[pathlib.Path, Future] | None = None

    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return max(committed_steps(self.directory), default=None)

    def save(self, state: Any, records: Records, progress: Json) -> None:
        """Starts to save `state` (a pytree with a scalar `step`) under its step.

        Returns when the host has its own copy, so that `state` may be donated. Raises RunError if the save before this
        one has failed.
        """
        self.wait()
        step, named = int(state.step), named_leaves(state)
        manifest = {"step": step, "arrays": _described(named)}
        manifest["progress"] = json.loads(json.dumps(progress))  # a copy: the caller's goes on changing
        folder, first = self.directory / str(step), jax.process_index() == 0
        try:
            if first:
                folder.mkdir()
                (folder / UNCOMMITTED).touch()
            self._arrays.save(folder / "state", args=ocp.args.StandardSave(nested(named)))
            # After Orbax, which has copied all to the host at once; what every process has whole counts once.
            pieces = own_pieces({name: leaf for name, leaf in named.items() if first or spans_processes(leaf)})
        except Exception as error:  # Orbax and TensorStore raise many kinds, none of them documented
            raise _not_saved(folder, error) from error
        self._saving = folder, self._background.submit(self._commit, folder, pieces, records, manifest)

    def check(self) -> None:
        """Raises RunError, naming the file, if the save under way has failed; does not wait for it."""
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being saved; raises RunError, naming the file, if the save has failed."""
        if self._saving is None:
            return
        (folder, saving), self._saving = self._saving, None
        try:
            saving.result()
        except Exception as error:
            raise _not_saved(folder, error) from error

    def restore(
        self,
        target: Any,
        model: Json,
        step: int | None = None,
        accept: Collection[str] = (),
        fresh: Callable[[], Any] | None = None,
    ) -> tuple[Any, Records, Json]:
        """(state like `target` with its shardings, records, progress); `target` may hold ShapeDtypeStructs.

        With "dtype" in `accept` arrays of another dtype are converted; with "model" arrays of another shape, or that
        the checkpoint does not have, are those of the state that `fresh` makes.

        Raises InputError: nothing there, another architecture (naming the field or array), damaged data.
        """
        step = self.latest_step() if step is None else step
        records, manifest = _read_files(self.directory, step)
        where, described = f"checkpoint {self.directory}/{step}", manifest["arrays"]
        if "model" not in accept:
            check_equal(f"{where}: model", records.model, dict(model))
        named = named_leaves(target)
        _check_arrays(where, described, _described(named), accept)
        kept = {name for name in named if name in described and described[name]["shape"] == list(named[name].shape)}
        shardings = {name: named[name].sharding for name in kept}
        whole = named["step"].sharding  # of a scalar: it fits any shape
        abstract = {name: _abstract(row, shardings.get(name, whole)) for name, row in described.items()}
        found = _read_arrays(self.directory, step, nested(abstract), manifest["checksums"])
        rest = named_leaves(fresh()) if set(named) - kept else {}
        leaves = [found[name].astype(leaf.dtype) if name in kept else rest[name] for name, leaf in named.items()]
        return jax.tree.unflatten(jax.tree.structure(target), leaves), records, manifest["progress"]

    def close(self) -> None:
        """Waits for the save under way; raises RunError if it has failed."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._arrays.close()

    def _commit(
        self, folder: pathlib.Path, pieces: dict[str, list[ShardPiece]], records: Records, manifest: dict[str, Any]
    ) -> None:
        """The part of a save that runs in the background: sums the arrays, waits for their files, and writes the
        manifest when everything else is on disk."""
        sums, board = checksums(pieces), message_board()
        pieces.clear()  # the host's memory of the state
        if board is not None:
            board.write(f"wallwm_sums{folder}/{board.index}", json.dumps(sums))
        self._arrays.wait_until_finished()
        if jax.process_index() != 0:
            return
        parts = [sums] if board is None else map(json.loads, board.collect(f"wallwm_sums{folder}"))
        for name, record in records._asdict().items():
            write_durably(folder / f"{name}.json", json.dumps(dict(record), indent=1))
        if self._before_commit is not None:
            self._before_commit(manifest["step"], folder)
        write_manifest(folder, {**manifest, "checksums": total(parts)})
        (folder / UNCOMMITTED).unlink()
        sync_directory(folder)
        sync_directory(self.directory)
        for old in committed_steps(self.directory)[: -self.keep]:
            self._remove(self.directory / str(old))

    def _remove(self, folder: pathlib.Path) -> None:
        """Takes away what makes it a step first, so that half of it is never taken for one."""
        (folder / UNCOMMITTED).touch()
        (folder / MANIFEST).unlink()
        _clear(folder)


def read_checkpoint(
    directory: str | pathlib.Path, step: int | None = None, placement: Placement | None = None
) -> Checkpoint:
    """Reads the newest checkpoint (or `step`) without knowing its model; raises InputError when there is none or it
    is damaged. The averaged parameters are the averages of the trained towers and the frozen rest."""
    step, found, records, progress = read_arrays(directory, step, placement)
    raw = {name: leaf for name, leaf in found.items() if name.startswith("parameters/")}
    average = {
        name.replace("average/", "parameters/", 1): leaf for name, leaf in found.items() if name.startswith("average/")
    }
    averaged = {name: average.get(name, leaf).astype(leaf.dtype) for name, leaf in raw.items()}
    return Checkpoint(step, nested(raw)["parameters"], nested(averaged)["parameters"], records, progress)


def read_arrays(
    directory: str | pathlib.Path, step: int | None = None, placement: Placement | None = None
) -> tuple[int, dict[str, jax.Array], Records, Json]:
    """(step, every array of the state by name, records, progress) of the newest checkpoint, or of `step`, each where
    `placement` says, or whole on one device of this process; raises InputError when there is none or it is damaged."""
    directory = pathlib.Path(directory).absolute()
    if not directory.is_dir():
        raise InputError(f"checkpoint {directory}", "no such directory", "a directory that training wrote")
    step = max(committed_steps(directory), default=None) if step is None else step
    records, manifest = _read_files(directory, step)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = placement or (lambda name, shape: here)
    abstract = {name: _abstract(row, place(name, tuple(row["shape"]))) for name, row in manifest["arrays"].items()}
    found = _read_arrays(directory, step, nested(abstract), manifest["checksums"])
    return step, found, records, manifest["progress"]


def latest_records(directory: str | pathlib.Path) -> Records | None:
    """The JSON files of the newest checkpoint, or None where there is no checkpoint."""
    directory = pathlib.Path(directory).absolute()
    steps = committed_steps(directory)
    return _read_files(directory, steps[-1], arrays=False)[0] if steps else None


def committed_steps(directory: str | pathlib.Path) -> list[int]:
    """The steps that have been saved to their end, in order."""
    return sorted(int(path.name) for path in _step_folders(directory) if (path / MANIFEST).is_file())


def check_all_committed(directory: str | pathlib.Path) -> None:
    """Raises InputError naming a step without its manifest that is no save which was interrupted: part of a copy, or a
    step of another format. Going on from an older one, or anew, is for a person to decide."""
    for folder in _step_folders(directory):
        if not (folder / MANIFEST).is_file() and not _is_uncommitted(folder):
            expected = f"a whole step (remove {folder} to go on from the one before)"
            raise InputError(f"checkpoint {folder}", f"no {MANIFEST}", expected)


def check_equal(where: str, found: Any, expected: Any) -> None:
    """Raises InputError at the first field in which two JSON values differ."""
    for difference in differences(found, expected, where):
        raise InputError(*difference)


def differences(found: Any, expected: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path below `where`, found, expected) of every field in which two JSON values differ."""
    expected = json.loads(json.dumps(expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted({*found, *expected}):
            yield from differences(found.get(name), expected.get(name), f"{where}.{name}" if where else name)
    elif found != expected:
        yield where, found, expected


def _clear_uncommitted(directory: pathlib.Path) -> None:
    """Removes what an interrupted run was writing or removing; a step that it had just committed loses the mark."""
    for folder in _step_folders(directory):
        if (folder / MANIFEST).is_file():
            (folder / UNCOMMITTED).unlink(missing_ok=True)
        elif _is_uncommitted(folder):
            _clear(folder)


def _is_uncommitted(folder: pathlib.Path) -> bool:
    """Whether a folder without a manifest is what a save or a removal left that was interrupted, or is gone: the first
    process of a run may be removing it while others look."""
    try:
        return (folder / UNCOMMITTED).is_file() or not any(folder.iterdir())
    except FileNotFoundError:
        return True


def _clear(folder: pathlib.Path) -> None:
    """Removes an uncommitted folder, its mark last: whoever is interrupted here finds it again."""
    for path in folder.iterdir():
        if path.name != UNCOMMITTED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / UNCOMMITTED).unlink(missing_ok=True)
    folder.rmdir()


def _step_folders(directory: str | pathlib.Path) -> list[pathlib.Path]:
    return [path for path in pathlib.Path(directory).glob("*") if path.name.isdigit()]


def _read_files(directory: pathlib.Path, step: int | None, *, arrays: bool = True) -> tuple[Records, Json]:
    """The JSON files of a step, checked; with `arrays` every other file of the step too, which the processes of a run
    do together."""
    if step is None or step not in committed_steps(directory):
        found = f"steps {committed_steps(directory)}"
        raise InputError(f"checkpoint {directory}", found, "a saved step" if step is None else f"step {step}")
    folder = directory / str(step)
    manifest, names = read_manifest(folder), [f"{name}.json" for name in Records._fields]
    if "checksums" not in manifest:
        raise InputError(f"checkpoint {folder}", f"no checksums in {MANIFEST}", "a step that this version has saved")
    if arrays:
        check_files_together(folder, manifest, message_board())
    else:
        check_files(folder, manifest, names)
    return Records(*(json.loads((folder / name).read_text()) for name in names)), manifest


def _read_arrays(directory: pathlib.Path, step: int, target: Any, expected: Json) -> dict[str, jax.Array]:
    """The arrays by name, checked against the checksums that saving took."""
    where = f"checkpoint {directory}/{step}/state"
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            tree = reader.restore(directory / str(step) / "state", args=ocp.args.StandardRestore(target))
        jax.block_until_ready(tree)
    except Exception as error:  # Orbax and TensorStore raise many kinds, none of them documented
        raise InputError(where, f"unreadable arrays ({type(error).__name__})", "an undamaged checkpoint") from error
    named = named_leaves(tree)
    for name, found in _checksums(named, where).items():
        if found != expected[name]:
            raise InputError(f"{where}: {name}", f"another array than was saved, {found}", f"checksum {expected[name]}")
    return named


def _checksums(named: Mapping[str, jax.Array], where: str) -> dict[str, str]:
    """The checksums of arrays, in all processes alike."""
    sums, board = checksums(own_pieces(named)), message_board()
    if board is None or not any(spans_processes(leaf) for leaf in named.values()):
        return total([sums])
    shared = {name: value for name, value in sums.items() if spans_processes(named[name])}
    texts = board.decide(
        f"wallwm_sums/{where}", json.dumps(shared), lambda texts: json.dumps(total(map(json.loads, texts)))
    )
    return total([{name: value for name, value in sums.items() if name not in shared}]) | json.loads(texts)


def _not_saved(folder: pathlib.Path, error: Exception) -> RunError:
    """The message of a failed save; the error's own names the file, but for Orbax's own small files."""
    text = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {text[0] if text else 'no message'}"
    said += "" if str(folder) in said else f", a file in {folder}/"
    return RunError(f"checkpoint {folder} could not be saved ({said}); the steps before it are kept")


def _abstract(row: Json, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(row["shape"]), row["dtype"], sharding=sharding)


def _described(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"shape": list(leaf.shape), "dtype": str(np.dtype(leaf.dtype))} for name, leaf in named.items()}


def nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from slash-separated names."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _check_arrays(where: str, found: Json, expected: Json, accept: Collection[str]) -> None:
    """Raises InputError at the first array, parameters first, that differs in presence, shape or dtype beyond what is
    accepted."""
    for name in sorted({*found, *expected}, key=lambda name: (not name.startswith("parameters/"), name)):
        rows = found.get(name), expected.get(name)
        same_shape = all(rows) and rows[0]["shape"] == rows[1]["shape"]
        kind = "dtype" if same_shape else "model"
        if rows[0] != rows[1] and kind not in accept:
            expected = f"{_text(rows[1])} (--accept-change {kind} goes on all the same)"
            raise InputError(f"{where}: {name}", _text(rows[0]), expected)


def _text(row: Json | None) -> str:
    return f"{row['dtype']}{row['shape']}" if row else "no such array"
