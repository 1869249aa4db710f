"""Checkpoints: one committed directory a step with the arrays and everything needed to understand them.

    <directory>/<step>/state/          arrays (Orbax), named by their paths in the state
    <directory>/<step>/config.json, statistics.json, embodiment.json, model.json, sources.json, changes.json
    <directory>/<step>/manifest.json   shapes and dtypes, a digest of the arrays and of every file, the run's progress
    <directory>/<step>.partial/        a save under way, or what is left of one

Orbax does not notice damaged array data, casts dtypes silently, and can name a step whose write has failed. Here a step
is committed by one rename, after its manifest, and everything that is read is checked against that. The digest of the
arrays is taken from the live state: beside the files' own it proves that what was written is what was trained.
"""

import json
import math
import os
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
from wallwm_jax.core.trees import digest, named_leaves
from wallwm_jax.train.manifest import MANIFEST, check_files, read_manifest, write_manifest

KEEP = 2
"""Checkpoints of a run that are kept."""
PARTIAL = ".partial"
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
        for left in self.directory.glob(f"*{PARTIAL}") if jax.process_index() == 0 else ():
            shutil.rmtree(left)
        self._arrays = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
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
        manifest = {"step": step, "arrays": _described(named), "digest_of_arrays": _digest(named)}
        manifest["progress"] = json.loads(json.dumps(progress))  # a copy: the caller's goes on changing
        partial = self.directory / f"{step}{PARTIAL}"
        try:
            if jax.process_index() == 0:
                partial.mkdir()
            self._arrays.save(partial / "state", args=ocp.args.StandardSave(nested(named)))
        except Exception as error:  # Orbax and TensorStore raise many kinds, none of them documented
            raise _not_saved(partial, error) from error
        self._saving = partial, self._background.submit(self._commit, step, partial, records, manifest)

    def check(self) -> None:
        """Raises RunError, naming the file, if the save under way has failed; does not wait for it."""
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being saved; raises RunError, naming the file, if the save has failed."""
        if self._saving is None:
            return
        (partial, saving), self._saving = self._saving, None
        try:
            saving.result()
        except Exception as error:
            raise _not_saved(partial, error) from error

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
        found = _read_arrays(self.directory, step, nested(abstract), manifest["digest_of_arrays"])
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

    def _commit(self, step: int, partial: pathlib.Path, records: Records, manifest: Json) -> None:
        """The part of a save that runs in the background: waits for the arrays, and renames when all is on disk."""
        self._arrays.wait_until_finished()
        if jax.process_index() != 0:
            return
        for name, record in records._asdict().items():
            write_durably(partial / f"{name}.json", json.dumps(dict(record), indent=1))
        if self._before_commit is not None:
            self._before_commit(step, partial)
        write_manifest(partial, manifest)
        sync_directory(partial)
        os.rename(partial, self.directory / str(step))
        sync_directory(self.directory)
        for old in committed_steps(self.directory)[: -self.keep]:
            self._remove(old)

    def _remove(self, step: int) -> None:
        """Takes a step's name away first, so that half of it is never taken for a step."""
        left = self.directory / f"{step}{PARTIAL}"
        os.rename(self.directory / str(step), left)
        shutil.rmtree(left)


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
    found = _read_arrays(directory, step, nested(abstract), manifest["digest_of_arrays"])
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
    """Raises InputError naming a step without its manifest, which no run leaves behind: part of a copy, or a step of
    another format. Going on from an older one, or anew, is for a person to decide."""
    for folder in _step_folders(directory):
        if not (folder / MANIFEST).is_file():
            expected = f"a whole step (remove {folder} to go on from the one before)"
            raise InputError(f"checkpoint {folder}", f"no {MANIFEST}", expected)


def check_space(directory: pathlib.Path, state: Any, keep: int = KEEP) -> None:
    """Raises InputError unless the disk has room for the checkpoints of a run: those that are kept and one under way,
    of a (possibly abstract) state. What lies in `directory` already counts as room."""
    one = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(state))
    there = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    needed, free = one * (keep + 1) - there, shutil.disk_usage(directory).free
    if free < needed:
        expected = f"{needed / 1e6:.1f} MB or more, for {keep + 1} checkpoints of {one / 1e6:.1f} MB"
        raise InputError(f"free space for {directory}", f"{free / 1e6:.1f} MB", expected)


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


def _step_folders(directory: str | pathlib.Path) -> list[pathlib.Path]:
    return [path for path in pathlib.Path(directory).glob("*") if path.name.isdigit()]


def _read_files(directory: pathlib.Path, step: int | None, *, arrays: bool = True) -> tuple[Records, Json]:
    """The JSON files of a step, checked; with `arrays` every other file of the step too."""
    if step is None or step not in committed_steps(directory):
        found = f"steps {committed_steps(directory)}"
        raise InputError(f"checkpoint {directory}", found, "a saved step" if step is None else f"step {step}")
    folder = directory / str(step)
    manifest, names = read_manifest(folder), [f"{name}.json" for name in Records._fields]
    check_files(folder, manifest, None if arrays else names)
    return Records(*(json.loads((folder / name).read_text()) for name in names)), manifest


def _read_arrays(directory: pathlib.Path, step: int, target: Any, expected: str | None) -> dict[str, jax.Array]:
    """The arrays by name, checked against the digest that saving took."""
    where = f"checkpoint {directory}/{step}/state"
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            tree = reader.restore(directory / str(step) / "state", args=ocp.args.StandardRestore(target))
        jax.block_until_ready(tree)
    except Exception as error:  # Orbax and TensorStore raise many kinds, none of them documented
        raise InputError(where, f"unreadable arrays ({type(error).__name__})", "an undamaged checkpoint") from error
    named = named_leaves(tree)
    if expected is not None and (found := _digest(named)) is not None and found != expected:
        raise InputError(where, f"other arrays than were saved (digest {found[:12]})", f"digest {expected[:12]}")
    return named


def _not_saved(partial: pathlib.Path, error: Exception) -> RunError:
    """The message of a failed save; the error's own names the file, but for Orbax's own small files."""
    text = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {text[0] if text else 'no message'}"
    said += "" if str(partial) in said else f", a file in {partial}/"
    return RunError(f"checkpoint {partial} could not be saved ({said}); the steps before it are kept")


def _digest(named: Mapping[str, Any]) -> str | None:
    """Digest of all arrays by name, or None when this process does not hold them all."""
    if not all(leaf.is_fully_addressable for leaf in named.values() if isinstance(leaf, jax.Array)):
        return None
    return digest({name: named[name] for name in sorted(named)})


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
