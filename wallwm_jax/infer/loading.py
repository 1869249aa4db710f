"""Reads trained runs for inference: finished stages, world models and the vision-language side.

A checkpoint's records hold its architecture, config, statistics and embodiment: the world model needs nothing else. The
vision-language side also needs the tokenizer from the run's curated dataset.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import file_digest
from wallwm_jax.data.curated import REPORT
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.planning import TOKENIZER, PlanSettings
from wallwm_jax.data.statistics import Statistics
from wallwm_jax.data.tokenizer import CaptionTokenizer
from wallwm_jax.infer.reasoning import Reasoning, ReasoningSettings
from wallwm_jax.infer.stage_timer import StageTimer
from wallwm_jax.infer.text_sources import LATENTS, PLANNER
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.train.architecture import model_of, reasoner_of
from wallwm_jax.train.checkpoint import Checkpoint, committed_steps, latest_records, read_checkpoint
from wallwm_jax.train.families import stages_of
from wallwm_jax.train.loop import require_finished
from wallwm_jax.train.manifest import MANIFEST

CHECKPOINTS = "checkpoints"
LAYOUT = "a run's folder, <run>/<stage>, <run>/<stage>/checkpoints or one step of it"


class World(NamedTuple):
    """A world model with the embodiment and statistics of its checkpoint."""

    model: WorldAction
    checkpoint: Checkpoint
    embodiment: Embodiment
    statistics: Statistics
    origin: Mapping[str, Any]
    """Stage, step and parameter count, for display."""


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The finished stages of a run.

    Attributes:
      workdir: holds a folder for each stage.
      curated: the curated dataset; only its tokenizer and picture size are read.
      config: settings of inference and windows; None for the config stored in each checkpoint.
      stage: the only stage whose world model may be used; None lets the mode choose.
      step: the checkpoint of `stage`; None for the last one of a finished stage.
    """

    workdir: pathlib.Path
    curated: pathlib.Path
    config: ml_collections.ConfigDict | None = None
    stage: str | None = None
    step: int | None = None

    @classmethod
    def find(cls, path: str | pathlib.Path) -> "TrainedRun":
        """The run that a path belongs to: a run folder, a stage folder, its checkpoints folder or a single step.

        A step named explicitly may be from the middle of its stage. Raises InputError for any other path.
        """
        given = pathlib.Path(path).absolute()
        if not given.is_dir():
            raise InputError(str(path), "no such folder", LAYOUT)
        if any((given / stage.name / CHECKPOINTS).is_dir() for stage in stages_of()):
            return cls(given, given / "curated")
        step, folder = None, given
        if folder.name.isdigit() and (folder / MANIFEST).is_file():
            step, folder = int(folder.name), folder.parent
        if folder.name == CHECKPOINTS:
            folder = folder.parent
        elif step is not None or not (folder / CHECKPOINTS).is_dir():
            raise InputError(str(path), "no stage's checkpoints", LAYOUT)
        names = [stage.name for stage in stages_of()]
        if folder.name not in names:
            raise InputError(f"{path}: stage", repr(folder.name), f"a folder named after one of {names}")
        return cls(folder.parent, folder.parent / "curated", stage=folder.name, step=step)

    def checkpoints(self, stage: str) -> pathlib.Path:
        """The folder of a stage's checkpoints."""
        return self.workdir / stage / CHECKPOINTS

    def is_finished(self, stage: str) -> bool:
        """Whether the newest checkpoint is of the stage's last step, from its records alone."""
        records = latest_records(self.checkpoints(stage))
        steps = committed_steps(self.checkpoints(stage))
        return records is not None and steps[-1] >= records.config["stages"][stage]["steps"]

    def finished(self, stage: str) -> Checkpoint | None:
        """The last checkpoint of a finished stage; None if it is not finished."""
        return self.required(stage) if self.is_finished(stage) else None

    def required(self, stage: str) -> Checkpoint:
        """The last checkpoint of a stage; raises InputError, naming its folder, unless the stage is finished."""
        directory = self.checkpoints(stage)
        return require_finished(directory, read_checkpoint(directory), stage)

    def digest(self, stage: str) -> str | None:
        """Of the last checkpoint of a finished stage; None if it is not finished."""
        if not self.is_finished(stage):
            return None
        directory = self.checkpoints(stage)
        return file_digest(directory / str(committed_steps(directory)[-1]) / MANIFEST)

    def world(self, stages: Sequence[str], mode: str) -> World:
        """The world model of the first finished stage in `stages`, or of the checkpoint that `find` was given.

        Raises InputError if there is none, or if that checkpoint's stage is not in `stages`; `mode` is for the message.
        """
        if self.stage is not None and self.stage not in stages:
            expected = f"a checkpoint of {_either(stages)}, for {mode} mode"
            raise InputError(f"checkpoint {self.checkpoints(self.stage)}: stage", repr(self.stage), expected)
        choice = stages if self.stage is None else (self.stage,)
        if self.step is not None:
            stage, checkpoint = self.stage, read_checkpoint(self.checkpoints(self.stage), self.step)
        else:
            stage = next((stage for stage in choice if self.is_finished(stage)), None)
            if stage is None:
                directory = self.checkpoints(choice[-1])
                found = f"steps {committed_steps(directory)}" if directory.is_dir() else "no such folder"
                raise InputError(f"checkpoint {directory}", found, f"a finished {_either(choice)}, for {mode} mode")
            checkpoint = self.required(stage)
        where, records = f"checkpoint {self.checkpoints(stage)}/{checkpoint.step}", checkpoint.records
        embodiment = Embodiment.of(records.embodiment, f"{where}: embodiment")
        statistics = Statistics.of(records.statistics, f"{where}: statistics")
        count = sum(leaf.size for leaf in jax.tree.leaves(checkpoint.averaged))
        origin = {"stage": stage, "step": checkpoint.step, "parameters": count}
        return World(model_of(records.model), checkpoint, embodiment, statistics, origin)

    def config_of(self, checkpoint: Checkpoint) -> ml_collections.ConfigDict:
        """The run's config if given, else the one stored in the checkpoint."""
        if self.config is not None:
            return self.config
        return ml_collections.ConfigDict(dict(checkpoint.records.config))

    def reasoning(
        self, rows: int = ReasoningSettings.rows, timer: StageTimer | None = None
    ) -> tuple[Reasoning | None, dict[str, str]]:
        """The vision-language side, or None and the reason for each text source that needs it."""
        checkpoint, path = self.finished("staircase"), self.curated / TOKENIZER
        missing = None if checkpoint else f"no finished stage 'staircase' in {self.workdir}"
        if missing is None and not path.is_file():
            missing = f"no tokenizer {path}"
        if missing is not None:
            return None, dict.fromkeys((LATENTS, PLANNER), missing)
        records, config = checkpoint.records, self.config_of(checkpoint)
        expected = records.sources.get(TOKENIZER)
        if expected is not None and file_digest(path) != expected:
            raise InputError(str(path), "another tokenizer", "the one that stage 'staircase' was trained with")
        where = f"checkpoint {self.checkpoints('staircase')}/{checkpoint.step}"
        embodiment = Embodiment.of(records.embodiment, f"{where}: embodiment")
        statistics = Statistics.of(records.statistics, f"{where}: statistics")
        settings = ReasoningSettings(PlanSettings.from_config(config.planning), config.data.text_length, rows)
        parts = (CaptionTokenizer.load(path), embodiment, statistics, settings, timer)
        return Reasoning(reasoner_of(records.model), checkpoint.averaged, *parts), {}

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the curated pictures; None without a curated dataset."""
        try:
            height, width = json.loads((self.curated / REPORT).read_text())["image_shape"][:2]
        except (OSError, ValueError, KeyError):
            return None
        return int(height), int(width)


def _either(stages: Sequence[str]) -> str:
    return "stage " + " or ".join(repr(stage) for stage in stages)
