"""What a run may not have changed when it goes on with a checkpoint, unless a person has said so by name."""

import json
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import FRAMES, NUMBERS, frame_names
from wallwm_jax.data.digests import combined_digest, file_digests
from wallwm_jax.data.planning import TOKENIZER
from wallwm_jax.train.checkpoint import Records, committed_steps, differences, latest_records
from wallwm_jax.train.settings import default_section
from wallwm_jax.train.stages import Stage

CHANGES: Mapping[str, str] = {
    "model": "architecture and shapes: arrays that do not fit start anew",
    "dtype": "dtypes: arrays are converted",
    "statistics": "normalisation ranges",
    "embodiment": "the layout of states and actions",
    "data": "the data: frames, numbers, event index, windows, plans, and how batches are drawn from them",
    "tokenizer": "the vision-language side's tokens",
    "config": "the seed and the stage's own settings",
}
"""What a person can accept -> what it covers."""

_MAY_CHANGE = frozenset(
    {
        "log_every",
        "eval_every",
        "eval_batches",
        "checkpoint_every",
        "stop_after_skipped",
        "profile",
        "accumulate",
        "offload_optimizer",
    }
)
"""Settings of a stage that a resumed run may have changed: they decide what is written or kept in memory, not what is
learned."""

_MAY_CHANGE_OF_MODEL = frozenset({"remat", "unroll"})
"""Likewise of the config's model sections: what is kept in memory, and how loops are written."""

_MODEL_DEFAULTS: Mapping[str, Any] = {"cross_view": True, "overrides": {}}
"""Keys that a model section of a checkpoint may lack, and what they then were."""


def check_changes(accept: Collection[str]) -> None:
    """Raises InputError for a name that is not among CHANGES."""
    for name in accept:
        if name not in CHANGES:
            raise InputError("--accept-change", repr(name), f"one of {sorted(CHANGES)}")


def data_sources(curated: pathlib.Path, stage: Stage) -> dict[str, str]:
    """SHA-256 of what a stage is trained on in a curated dataset, by file name: the numbers of all episodes and the
    files that its batches are drawn from; under "frames" one digest of all decoded frames. See `data.digests` for what
    it costs."""
    present = [name for name in (NUMBERS, *stage.batches.sources) if (curated / name).is_file()]
    frames = frame_names(curated)
    found = file_digests(curated, [*present, *frames], save=jax.process_index() == 0)
    sources = {name: found[name] for name in present}
    return sources | ({FRAMES: combined_digest({name: found[name] for name in frames})} if frames else {})


def resumed_records(
    directory: str | pathlib.Path, stage: Stage, records: Records, accept: Collection[str] = ()
) -> Records:
    """`records` with the changes that the checkpoints in `directory` were, and now are, resumed with.

    Raises InputError naming the first field by which this run would differ from the one it goes on with, if its kind is
    not in `accept`.
    """
    check_changes(accept)
    earlier = latest_records(directory)
    if earlier is None:
        return records
    accepted: dict[str, list[str]] = {}
    for path, found, expected in differences(*(_decisive(part, stage) for part in (earlier, records))):
        kind = _accepted_kind(f"checkpoint {directory}", path, found, expected, accept, _kinds(stage))
        accepted.setdefault(kind, []).append(f"{path}: {found} -> {expected}")
    now = {str(committed_steps(directory)[-1]): accepted} if accepted else {}
    return records._replace(changes={**earlier.changes, **now})


def check_origin(
    directory: str | pathlib.Path, origin: Records, records: Records, accept: Collection[str] = ()
) -> None:
    """Raises InputError if the stage that another one starts from, whose checkpoints are in `directory`, learned with
    other statistics, another embodiment or another tokenizer, unless that is accepted."""
    parts = ({**_of(part, "statistics", "embodiment"), **_tokenizer(part)} for part in (origin, records))
    for path, found, expected in differences(*parts):
        _accepted_kind(f"checkpoint {directory}", path, found, expected, accept, _SOURCE_KINDS)


_SOURCE_KINDS = ((f"sources.{TOKENIZER}", "tokenizer"), ("sources", "data"))


def _kinds(stage: Stage) -> tuple[tuple[str, str], ...]:
    """(prefix of a differing field, kind of change); the first prefix that fits counts, else the record's own name."""
    dtypes = tuple((f"config.{name}.dtype", "dtype") for name in stage.model_sections)
    models = tuple((f"config.{name}", "model") for name in stage.model_sections)
    data = tuple((f"config.{name}", "data") for name in stage.batches.sections)
    return (*dtypes, *models, *data, ("config", "config"), *_SOURCE_KINDS)


def _accepted_kind(
    where: str, path: str, found: Any, expected: Any, accept: Collection[str], kinds: Iterable[tuple[str, str]]
) -> str:
    """The kind of change that a differing field is; raises InputError if it is not accepted."""
    kind = next((kind for prefix, kind in kinds if path.startswith(prefix)), path.split(".")[0])
    if kind not in accept:
        raise InputError(f"{where}: {path}", found, f"{expected} (--accept-change {kind} goes on all the same)")
    return kind


def _decisive(records: Records, stage: Stage) -> dict[str, Any]:
    """The part of the records that decides what a stage learns, in the order in which it is compared. A setting that
    was not there yet when a checkpoint was saved has its default."""
    config = records.config
    whole = _filled(json.loads(json.dumps(default_section(stage))), config["stages"][stage.name])
    own = {name: value for name, value in whole.items() if name not in _MAY_CHANGE}
    decisive = {**{name: config[name] for name in ("seed", *stage.sections)}, "stages": {stage.name: own}}
    for section in stage.model_sections:
        kept = _MODEL_DEFAULTS | dict(config[section])
        kept["overrides"] = {name: value for name, value in (kept["overrides"] or {}).items() if value is not None}
        decisive[section] = {name: value for name, value in kept.items() if name not in _MAY_CHANGE_OF_MODEL}
    return {**_of(records, "model", "statistics", "embodiment", "sources"), "config": decisive}


def _filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, and where it has no entry that of `defaults`, on every level."""
    found = dict(defaults)
    for name, value in given.items():
        nested = isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        found[name] = _filled(defaults[name], value) if nested else value
    return found


def _of(records: Records, *names: str) -> dict[str, Any]:
    return {name: dict(getattr(records, name)) for name in names}


def _tokenizer(records: Records) -> dict[str, Any]:
    return {"sources": {TOKENIZER: records.sources.get(TOKENIZER)}}
