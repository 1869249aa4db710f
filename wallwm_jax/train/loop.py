"""A stage trained from a config and a curated dataset."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

from wallwm_jax.core.config import to_json
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import check_batch, make_mesh
from wallwm_jax.core.rng import stream
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.train.checkpoint import Checkpoint, Records, check_equal, latest_records, read_checkpoint
from wallwm_jax.train.fit import Run, fit
from wallwm_jax.train.progress import Reporter, default_reporter
from wallwm_jax.train.settings import stage_settings
from wallwm_jax.train.sides import SIDES, sections
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

    Reads config.{seed, mesh, data, model, stages.<stage_name>}, for the vision-language side also config.{reasoner,
    planning}, for observation-centred windows config.windows and, if present, config.{workers, tensorboard}. A stage
    starts from the *averaged* parameters of an earlier one in the same workdir: stage "action" from "video", whose
    frozen towers are the EMA weights of stage 1.

    Raises InputError: bad config values, a batch that does not divide the mesh, no finished stage to start from, a
    checkpoint of another architecture, config or statistics, damaged checkpoints.
    """
    stage, curated = stage_of(stage_name), CuratedDataset.open(curated_path)
    side, directory = SIDES[stage.side], pathlib.Path(workdir) / stage.name
    settings, mesh = stage_settings(stage, config.stages[stage.name]), make_mesh(config.mesh)
    check_batch(side.rows(config), mesh)
    model = side.build(config, curated)
    records = make_records(config, curated, side.architecture(model))
    check_resumable(directory / "checkpoints", stage, records)
    data = side.data(stage, config, curated, settings.run.eval_batches)
    fresh, declarations = side.init(model, stream(config.seed, "init"), data.heldout[0])
    parameters = starting_parameters(stage, pathlib.Path(workdir), records, fresh)
    tensorboard = bool(config.get("tensorboard", False))
    run = Run(stage, model, declarations, settings, mesh, config.seed, records, directory, tensorboard)
    state = fit(run, parameters, data, reporter or default_reporter())
    return StageResult(state, directory)


def make_records(config: ml_collections.ConfigDict, curated: CuratedDataset, model: Mapping[str, Any]) -> Records:
    """The JSON that every checkpoint carries; `model` is the architecture's."""
    statistics, embodiment = (
        json.loads((curated.root / name).read_text()) for name in ("statistics.json", "embodiment.json")
    )
    return Records(json.loads(to_json(config)), statistics, embodiment, dict(model))


def starting_parameters(stage: Stage, workdir: pathlib.Path, records: Records, fresh: Any) -> Any:
    """Fresh parameters, or the averaged ones of the stage that this one starts from, with the towers that it takes
    from other stages.

    Raises InputError when such a stage is missing, unfinished or of another architecture.
    """
    parameters = fresh
    if stage.starts_from is not None:
        directory = workdir / stage.starts_from / "checkpoints"
        earlier = read_checkpoint(directory)
        check_equal(f"checkpoint {directory}: model", earlier.records.model, records.model)
        parameters = require_finished(directory, earlier, stage.starts_from).averaged
    for tower, source in stage.takes:
        directory = workdir / source / "checkpoints"
        found = require_finished(directory, read_checkpoint(directory), source).averaged
        shapes = [jax.tree.map(lambda leaf: list(leaf.shape), tree[tower]) for tree in (found, fresh)]
        check_equal(f"checkpoint {directory}: {tower}", *shapes)
        parameters = {**parameters, tower: found[tower]}
    for source, target in stage.copies:
        part = _part(parameters, source)
        parameters = parameters if part is None else _with_part(parameters, target, part)
    return parameters


def _part(tree: Any, path: str) -> Any:
    """The subtree at "a/b/c", None where there is none."""
    for name in path.split("/"):
        tree = tree.get(name) if tree else None
    return tree


def _with_part(tree: Any, path: str, part: Any) -> Any:
    first, _, rest = path.partition("/")
    return {**tree, first: _with_part(tree[first], rest, part) if rest else part}


def require_finished(directory: pathlib.Path, earlier: Checkpoint, name: str) -> Checkpoint:
    """The checkpoint of stage `name`; raises InputError unless its stage has run to its end."""
    steps = earlier.records.config["stages"][name]["steps"]
    if earlier.step < steps:
        raise InputError(f"checkpoint {directory}", f"step {earlier.step} of {steps}", "a finished stage")
    return earlier


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
    return {**{name: config[name] for name in ("seed", *sections(stage))}, "stages": {stage.name: own}}
