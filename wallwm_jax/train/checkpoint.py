"""Checkpoints: one committed directory a step with the arrays and everything needed to understand them.

    <directory>/<step>/state/              arrays (Orbax), named by their paths in the state
    <directory>/<step>/config/config.json, statistics/statistics.json, embodiment/embodiment.json, model/model.json
    <directory>/<step>/manifest/manifest.json   shapes, dtypes and a digest of the arrays, and the run's progress

Orbax commits a step by one rename, but does not notice damaged array data and casts dtypes silently; the manifest
closes both gaps. Saving is synchronous: the state is donated to the next step, and a failed background write would
surface only at the next save.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import digest, named_leaves

RECORDS = ("config", "statistics", "embodiment", "model")
Json = Mapping[str, Any]


class Records(NamedTuple):
    """The JSON files beside the arrays; `model` is the architecture, compared on restoring."""

    config: Json
    statistics: Json
    embodiment: Json
    model: Json


class Checkpoint(NamedTuple):
    """What inference and the next stage read: nested dicts of parameters, raw and with the trained part averaged."""

    step: int
    parameters: Any
    averaged: Any
    records: Records
    progress: Json


class CheckpointStore:
    """The checkpoints of one stage of one run, the newest `keep` of them."""

    def __init__(self, directory: str | pathlib.Path, keep: int = 2):
        self.directory = pathlib.Path(directory).absolute()
        handlers = {name: ocp.JsonCheckpointHandler(f"{name}.json") for name in (*RECORDS, "manifest")}
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, cleanup_tmp_directories=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers={"state": ocp.StandardCheckpointHandler(), **handlers}
        )

    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return self._manager.latest_step()

    def save(self, state: Any, records: Records, progress: Json) -> None:
        """Commits `state` (a pytree with a scalar `step`) under its step; returns when it is on disk."""
        named = named_leaves(state)
        manifest = {"arrays": _described(named), "digest": _digest(named), "progress": dict(progress)}
        files = {name: ocp.args.JsonSave(dict(getattr(records, name))) for name in RECORDS}
        arrays = ocp.args.StandardSave(_nested(named))
        arguments = ocp.args.Composite(state=arrays, manifest=ocp.args.JsonSave(manifest), **files)
        self._manager.save(int(state.step), args=arguments)
        self._manager.wait_until_finished()

    def restore(self, target: Any, model: Json, step: int | None = None) -> tuple[Any, Records, Json]:
        """(state like `target` with its shardings, records, progress); `target` may hold ShapeDtypeStructs.

        Raises InputError: nothing there, another architecture (naming the field or array), damaged data.
        """
        step = self.latest_step() if step is None else step
        records, manifest = _read_files(self.directory, step)
        check_equal(f"checkpoint {self.directory}/{step}: model", records.model, dict(model))
        named = named_leaves(target)
        _check_arrays(f"{self.directory}/{step}", manifest["arrays"], _described(named))
        abstract = {name: _abstract(leaf.shape, leaf.dtype, leaf.sharding) for name, leaf in named.items()}
        found = _read_arrays(self.directory, step, _nested(abstract), manifest["digest"])
        state = jax.tree.unflatten(jax.tree.structure(target), [found[name] for name in named])
        return state, records, manifest["progress"]

    def close(self) -> None:
        self._manager.close()


def read_checkpoint(directory: str | pathlib.Path, step: int | None = None) -> Checkpoint:
    """Reads the newest checkpoint (or `step`) without knowing its model; raises InputError when there is none or it
    is damaged. The averaged parameters are the averages of the trained towers and the frozen rest."""
    directory = pathlib.Path(directory).absolute()
    if not directory.is_dir():
        raise InputError(f"checkpoint {directory}", "no such directory", "a directory that training wrote")
    step = max(_steps(directory), default=None) if step is None else step
    records, manifest = _read_files(directory, step)
    here, rows = jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), manifest["arrays"].items()
    abstract = {name: _abstract(tuple(row["shape"]), row["dtype"], here) for name, row in rows}
    found = _read_arrays(directory, step, _nested(abstract), manifest["digest"])
    raw = {name: leaf for name, leaf in found.items() if name.startswith("parameters/")}
    average = {
        name.replace("average/", "parameters/", 1): leaf for name, leaf in found.items() if name.startswith("average/")
    }
    averaged = {name: average.get(name, leaf).astype(leaf.dtype) for name, leaf in raw.items()}
    return Checkpoint(step, _nested(raw)["parameters"], _nested(averaged)["parameters"], records, manifest["progress"])


def latest_records(directory: str | pathlib.Path) -> Records | None:
    """The JSON files of the newest checkpoint, or None where there is no checkpoint."""
    directory = pathlib.Path(directory).absolute()
    steps = _steps(directory) if directory.is_dir() else []
    return _read_files(directory, max(steps))[0] if steps else None


def _steps(directory: pathlib.Path) -> list[int]:
    """Committed steps, in order."""
    return sorted(ocp.utils.checkpoint_steps(directory))


def _read_files(directory: pathlib.Path, step: int | None) -> tuple[Records, Json]:
    """The JSON files of a step."""
    if step is None or step not in _steps(directory):
        found = f"steps {_steps(directory)}"
        raise InputError(f"checkpoint {directory}", found, "a saved step" if step is None else f"step {step}")
    files = {}
    for name in (*RECORDS, "manifest"):
        path = directory / str(step) / name / f"{name}.json"
        try:
            files[name] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"checkpoint file {path}", f"{type(error).__name__}: {error}", "readable JSON") from error
    manifest = files.pop("manifest")
    return Records(**files), manifest


def _read_arrays(directory: pathlib.Path, step: int, target: Any, expected: str | None) -> dict[str, jax.Array]:
    """The arrays by name, checked against the digest that saving wrote."""
    where = f"checkpoint {directory}/{step}/state"
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            tree = reader.restore(directory / str(step) / "state", args=ocp.args.StandardRestore(target))
        jax.block_until_ready(tree)
    except Exception as error:  # Orbax and TensorStore raise many kinds, none of them documented
        raise InputError(where, f"unreadable arrays ({type(error).__name__})", "an undamaged checkpoint") from error
    named = named_leaves(tree)
    if expected is not None and (found := _digest(named)) is not None and found != expected:
        raise InputError(where, f"damaged arrays (digest {found[:12]})", f"digest {expected[:12]}")
    return named


def _digest(named: Mapping[str, Any]) -> str | None:
    """Digest of all arrays by name, or None when this process does not hold them all."""
    if not all(leaf.is_fully_addressable for leaf in named.values() if isinstance(leaf, jax.Array)):
        return None
    return digest({name: named[name] for name in sorted(named)})


def _abstract(shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _described(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"shape": list(leaf.shape), "dtype": str(np.dtype(leaf.dtype))} for name, leaf in named.items()}


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from slash-separated names."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _check_arrays(where: str, found: Json, expected: Json) -> None:
    """Raises InputError at the first array, parameters first, that differs in presence, shape or dtype."""
    for name in sorted({*found, *expected}, key=lambda name: (not name.startswith("parameters/"), name)):
        if found.get(name) != expected.get(name):
            described = [_text(rows.get(name)) for rows in (found, expected)]
            raise InputError(f"checkpoint {where}: {name}", *described)


def _text(row: Json | None) -> str:
    return f"{row['dtype']}{row['shape']}" if row else "no such array"


def check_equal(where: str, found: Any, expected: Any) -> None:
    """Raises InputError at the first field in which two JSON values differ."""
    expected = json.loads(json.dumps(expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted({*found, *expected}):
            check_equal(f"{where}.{name}", found.get(name), expected.get(name))
    elif found != expected:
        raise InputError(where, found, expected)
