"""A stage trained from a config and a curated dataset."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

from wallwm_jax.core.config import to_json
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import check_batch, make_mesh
from wallwm_jax.core.rng import stream
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.pipeline import make_loader
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.train.architecture import architecture, build_model
from wallwm_jax.train.checkpoint import Records, check_equal, latest_records, read_checkpoint
from wallwm_jax.train.fit import Run, StageData, fit
from wallwm_jax.train.progress import Reporter, default_reporter
from wallwm_jax.train.settings import stage_settings
from wallwm_jax.train.stages import Stage, stage_of
from wallwm_jax.train.state import TrainState

_MAY_CHANGE = frozenset({"log_every", "eval_every", "eval_batches", "checkpoint_every"})
"""Settings of a stage that a resumed run may have changed: they decide what is written, not what is learned."""


class StageResult(NamedTuple):
    """Where a trained stage lies: `<workdir>/<stage>/` with checkpoints/ and metrics.jsonl."""

    state: TrainState
    directory: pathlib.Path


def train_stage(
    config: ml_collections.ConfigDict,
    stage_name: str,
    curated_path: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    reporter: Reporter | None = None,
) -> StageResult:
    """Trains one stage, or goes on with it, or finds it finished.

    Reads config.{seed, mesh, data, model, stages.<stage_name>} and, if present, config.{workers, tensorboard}. Stage
    "action" starts from the *averaged* parameters of stage "video" in the same workdir: the frozen video tower and text
    encoder are the EMA weights of stage 1.

    Raises InputError: bad config values, a batch that does not divide the mesh, no finished stage to start from, a
    checkpoint of another architecture, config or statistics, damaged checkpoints.
    """
    stage, curated = stage_of(stage_name), CuratedDataset.open(curated_path)
    directory = pathlib.Path(workdir) / stage.name
    settings = stage_settings(stage, config.stages[stage.name])
    mesh, loader = make_mesh(config.mesh), LoaderSettings.from_config(config.data)
    check_batch(loader.rows, mesh)
    model = build_model(config.model, len(curated.views))
    records = make_records(config, curated, model)
    check_resumable(directory / "checkpoints", stage, records)
    workers = config.get("workers", 0)
    data = stage_data(curated, loader, config.seed, settings.run.eval_batches, workers)
    fresh, declarations = init_parameters(model, stream(config.seed, "init"), data.heldout[0])
    parameters = starting_parameters(stage, pathlib.Path(workdir), records, fresh)
    tensorboard = bool(config.get("tensorboard", False))
    run = Run(stage, model, declarations, settings, mesh, config.seed, records, directory, tensorboard)
    state = fit(run, parameters, data, reporter or default_reporter())
    return StageResult(state, directory)


def make_records(config: ml_collections.ConfigDict, curated: CuratedDataset, model: WorldAction) -> Records:
    """The JSON that every checkpoint carries."""
    statistics, embodiment = (
        json.loads((curated.root / name).read_text()) for name in ("statistics.json", "embodiment.json")
    )
    return Records(json.loads(to_json(config)), statistics, embodiment, architecture(model))


def stage_data(
    curated: CuratedDataset, settings: LoaderSettings, seed: int, eval_batches: int, workers: int = 0
) -> StageData:
    """Training batches from any step, and the first `eval_batches` held-out batches, anchored at the events' starts."""
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def train(step: int) -> Iterable[EventBatch]:
        return make_loader(curated, settings, seed=seed, split="train", start_step=step, workers=workers, **share)

    unmoved = dataclasses.replace(settings, anchor_jitter=0.0)
    heldout = make_loader(curated, unmoved, seed=seed, split="heldout", num_steps=eval_batches, **share)
    return StageData(train, tuple(heldout))


def starting_parameters(stage: Stage, workdir: pathlib.Path, records: Records, fresh: Any) -> Any:
    """Fresh parameters, or the averaged ones of the stage that this one starts from.

    Raises InputError when that stage is missing, unfinished or of another architecture.
    """
    if stage.starts_from is None:
        return fresh
    directory = workdir / stage.starts_from / "checkpoints"
    earlier = read_checkpoint(directory)
    check_equal(f"checkpoint {directory}: model", earlier.records.model, records.model)
    steps = earlier.records.config["stages"][stage.starts_from]["steps"]
    if earlier.step < steps:
        raise InputError(f"checkpoint {directory}", f"step {earlier.step} of {steps}", "a finished stage")
    return earlier.averaged


def check_resumable(directory: pathlib.Path, stage: Stage, records: Records) -> None:
    """Raises InputError naming the first field by which this run would differ from the one it goes on with."""
    earlier = latest_records(directory)
    if earlier is None:
        return
    check_equal(f"checkpoint {directory}: model", earlier.model, records.model)
    check_equal(f"checkpoint {directory}: statistics", earlier.statistics, records.statistics)
    found, expected = (_decisive(part.config, stage) for part in (earlier, records))
    check_equal(f"checkpoint {directory}: config", found, expected)


def _decisive(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """The part of a config that decides what a stage learns."""
    own = {name: value for name, value in config["stages"][stage.name].items() if name not in _MAY_CHANGE}
    return {**{name: config[name] for name in ("seed", "data", "model")}, "stages": {stage.name: own}}
