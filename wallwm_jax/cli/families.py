"""How the command line evaluates and drives the models of each family, as a table.

The functions import what they need when they are called: training must not wait for the report's packages.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.modes import MODES, InferenceMode, mode_of
from wallwm_jax.train.family import require_sections


@dataclasses.dataclass(frozen=True)
class Commands:
    """`wallwm evaluate` and `wallwm evaluate --mode` for one family.

    Attributes:
      family: its name in `train.families`.
      sections: top-level sections of the config that are read.
      stages: stages whose settings are read.
      check: `check(config)` raises InputError for values that cannot be.
      evaluate: `evaluate(config, curated, workdir)` gives what was found on held-out episodes.
      report: `report(found, workdir, seconds, rerun)` writes that into the workdir, `rerun` says whether a Rerun
        recording too; `seconds` are the whole run's.
      drive: `drive(config, curated, workdir, mode)` runs an inference mode in the simulator and writes what happened.
      film: `film(driven, path)` writes what `drive` gave as a Rerun recording.
    """

    family: str
    sections: tuple[str, ...]
    stages: tuple[str, ...]
    check: Callable[[ml_collections.ConfigDict], Any]
    evaluate: Callable[[ml_collections.ConfigDict, pathlib.Path, pathlib.Path], Any]
    report: Callable[[Any, pathlib.Path, float, bool], None]
    drive: Callable[[ml_collections.ConfigDict, pathlib.Path, pathlib.Path, str], Any]
    film: Callable[[Any, pathlib.Path], None]

    def is_described(self, config: ml_collections.ConfigDict) -> bool:
        """Whether a config has all that is read."""
        return all(name in config for name in self.sections) and all(name in config.stages for name in self.stages)

    def require(self, config: ml_collections.ConfigDict) -> None:
        """Raises InputError for what a config lacks."""
        require_sections(config, self.sections, f"the evaluation of family {self.family}")
        require_sections(config.stages, self.stages, f"the evaluation of family {self.family}", "config.stages")


def _check_world_action(config: ml_collections.ConfigDict) -> None:
    from wallwm_jax.evaluate.settings import EvaluationSettings

    EvaluationSettings.from_config(config)


def _evaluate_world_action(config: ml_collections.ConfigDict, curated: pathlib.Path, workdir: pathlib.Path) -> Any:
    from wallwm_jax.cli import evaluation

    return evaluation.evaluate_run(config, curated, workdir)


def _report_world_action(found: Any, workdir: pathlib.Path, seconds: float, rerun: bool) -> None:
    from wallwm_jax.cli import evaluation
    from wallwm_jax.evaluate import rerun_export

    evaluation.write_report(found, workdir, seconds)
    if rerun:
        rerun_export.write_rollouts(found.rollouts, workdir / "rollouts.rrd")


def _drive_world_action(
    config: ml_collections.ConfigDict, curated: pathlib.Path, workdir: pathlib.Path, mode: str
) -> Any:
    from wallwm_jax.cli import driving

    return driving.drive_run(config, curated, workdir, mode)


def _film_world_action(driven: Any, path: pathlib.Path) -> None:
    from wallwm_jax.evaluate import rerun_export

    rerun_export.write_closed_loop(driven, path)


COMMANDS: tuple[Commands, ...] = (
    Commands(
        family="world_action",
        sections=("data", "model", "evaluate"),
        stages=("action",),
        check=_check_world_action,
        evaluate=_evaluate_world_action,
        report=_report_world_action,
        drive=_drive_world_action,
        film=_film_world_action,
    ),
)
"""The vision-language side has no row: the world model's evaluation includes it where it is trained."""


def commands_of(family: str, table: Sequence[Commands] = COMMANDS) -> Commands | None:
    """A family's row; None for a family that is not evaluated by itself."""
    return next((commands for commands in table if commands.family == family), None)


def commands_of_mode(
    mode: str, modes: Sequence[InferenceMode] = MODES, table: Sequence[Commands] = COMMANDS
) -> Commands:
    """The row of the family that an inference mode serves; raises InputError for an unknown mode, and for one whose
    family is not driven."""
    family = mode_of(mode, modes, "--mode").family
    commands = commands_of(family, table)
    if commands is None:
        raise InputError("--mode", repr(mode), f"a mode of one of the families {[row.family for row in table]}")
    return commands
