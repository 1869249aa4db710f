"""A stage's part of the config (`config.stages.<name>`) as frozen dataclasses, and back as a part of a config."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_collections

from wallwm_jax.core.config import Section, check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.optim.builder import OptimizerSettings
from wallwm_jax.train.stages import Stage

_Settings = TypeVar("_Settings")

_COUNTS = ("steps", "log_every", "eval_every", "eval_batches", "checkpoint_every", "stop_after_skipped", "accumulate")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """When a run averages, reports, evaluates and saves. All counts are steps; `eval_batches` are held-out batches.

    `ema_decay` is the averaging's final decay (WALL-WM: 0.9999). Checkpoints and evaluations also happen at the end.
    After `stop_after_skipped` steps in a row whose loss or gradients were not finite the run ends. `profile` names the
    first and the last step of a trace for xprof, written to `<stage>/profile`; empty for none. A step goes through its
    batch in `accumulate` parts, one after the other: it learns from the whole batch, in the memory of a part. With
    `offload_optimizer` the optimizer's state lies in the hosts' memory between steps, and comes to the devices for the
    update.
    """

    steps: int
    ema_decay: float = 0.99
    log_every: int = 10
    eval_every: int = 50
    eval_batches: int = 4
    checkpoint_every: int = 200
    stop_after_skipped: int = 10
    profile: tuple[int, ...] = ()
    accumulate: int = 1
    offload_optimizer: bool = False

    def __post_init__(self):
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "at least 1")
        if not 0 <= self.ema_decay < 1:
            raise InputError("ema_decay", self.ema_decay, "0 <= ema_decay < 1")
        if self.profile and not (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]):
            raise InputError("profile", self.profile, "(first step, last step), from 1")


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """Everything that `config.stages.<name>` says; `freeze` names towers that the stage trains and this run does
    not. `rows` is the global batch's if it is not that of other stages (`data.rows`, `planning.rows`)."""

    run: RunSettings
    optimizer: OptimizerSettings
    objective: Any
    freeze: tuple[str, ...] = ()
    rows: int | None = None

    def as_section(self) -> dict[str, Any]:
        """The whole section of a config that says so, with every key."""
        parts = {**dataclasses.asdict(self.optimizer), **dataclasses.asdict(self.run)}
        return {**parts, "rows": self.rows, "freeze": self.freeze, "objective": dataclasses.asdict(self.objective)}


def configured_stage(stage: Stage, config: Section) -> tuple[Stage, StageSettings]:
    """`stage` as a run with `config.stages.<stage.name>` has it, which trains fewer towers if that says `freeze`; and
    the run's settings. Raises what `stage_settings` raises."""
    settings = stage_settings(stage, config)
    return dataclasses.replace(stage, trains=stage.trains - set(settings.freeze)), settings


def stage_settings(stage: Stage, config: Section) -> StageSettings:
    """Reads `config.stages.<stage.name>`; raises InputError on unknown keys (naming the nearest) and bad values."""
    where = f"config.stages.{stage.name}"
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    objective, frozen, rows = values.pop("objective", {}), tuple(values.pop("freeze", ())), values.pop("rows", None)
    run, optimizer = _names(RunSettings), _names(OptimizerSettings)
    check_keys(values, {*run, *optimizer, "objective", "freeze", "rows"}, where)
    _check_frozen(stage, frozen, f"{where}.freeze")
    if not (rows is None or (isinstance(rows, int) and rows >= 1)):
        raise InputError(f"{where}.rows", rows, "at least 1, or None for as many as other stages have")
    if "steps" not in values:
        raise InputError(where, "no key 'steps'", "the number of training steps")
    return StageSettings(
        build(RunSettings, {name: value for name, value in values.items() if name in run}, where),
        build(OptimizerSettings, {name: value for name, value in values.items() if name in optimizer}, where),
        build(stage.settings, objective, f"{where}.objective"),
        frozen,
        rows,
    )


def _check_frozen(stage: Stage, frozen: tuple[str, ...], where: str) -> None:
    """Raises InputError for what the stage does not train anyway, and if nothing is left to train."""
    if absent := sorted(set(frozen) - stage.trains):
        raise InputError(where, absent, f"towers that stage {stage.name} trains: {sorted(stage.trains)}")
    if stage.trains <= set(frozen):
        raise InputError(where, sorted(frozen), f"fewer than all that stage {stage.name} trains")


def default_section(stage: Stage) -> dict[str, Any]:
    """`config.stages.<stage.name>` with every key at its default; `steps`, which has none, is 1000."""
    return stage_settings(stage, {"steps": 1000}).as_section()


def build(kind: type[_Settings], values: Section, where: str) -> _Settings:
    """A settings dataclass from a mapping; a field whose type is a dataclass is built from the mapping under its name.

    Raises InputError on unknown keys, naming the nearest.
    """
    check_keys(values, _names(kind), where)
    arguments, types = dict(values), typing.get_type_hints(kind)
    for name, value in arguments.items():
        nested = _dataclass_in(types[name])
        if nested is not None and isinstance(value, Mapping | ml_collections.ConfigDict):
            arguments[name] = build(nested, value, f"{where}.{name}")
    return kind(**arguments)


def _dataclass_in(annotation: Any) -> type | None:
    """The dataclass that a field of this type holds, by itself or in a union such as `CaptionDrop | None`."""
    candidates = (annotation, *typing.get_args(annotation))
    return next((part for part in candidates if isinstance(part, type) and dataclasses.is_dataclass(part)), None)


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}
