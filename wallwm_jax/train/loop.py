"""A stage trained from a config and a curated dataset."""

import json
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from wallwm_jax.core.config import to_json
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import check_host_memory, make_mesh
from wallwm_jax.core.processes import PATIENCE
from wallwm_jax.core.rng import stream
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.train.batch_checks import checked
from wallwm_jax.train.checkpoint import (
    Checkpoint,
    Placement,
    Records,
    check_equal,
    committed_steps,
    read_checkpoint,
)
from wallwm_jax.train.families import FAMILIES, Families, family_of, stage_of
from wallwm_jax.train.faults import Fault
from wallwm_jax.train.fit import fit
from wallwm_jax.train.progress import Reporter, default_reporter
from wallwm_jax.train.resumption import check_origin, data_sources, resumed_records
from wallwm_jax.train.run import Run, Start
from wallwm_jax.train.settings import configured_stage
from wallwm_jax.train.stages import Stage, without_absent
from wallwm_jax.train.state import TrainState, placement_by
from wallwm_jax.train.stop import StopSignals


class StageResult(NamedTuple):
    """Where a trained stage lies: `<workdir>/<stage>/` with checkpoints/ and metrics.jsonl."""

    state: TrainState
    directory: pathlib.Path


def train_stage(
    config: ml_collections.ConfigDict,
    stage_name: str | int,
    curated_path: str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    reporter: Reporter | None = None,
    stop: StopSignals | None = None,
    accept: Collection[str] = (),
    fault: Fault | None = None,
    patience: float = PATIENCE,
    families: Families = FAMILIES,
) -> StageResult:
    """Trains one stage, or goes on with it, or finds it finished.

    Reads config.{seed, mesh, stages.<stage>}, the sections that the stage names (`Stage.sections`: "data" and "model"
    for stage "video") and, if present, config.{workers, tensorboard, checks}. A stage starts from the *averaged*
    parameters of an earlier one in the same workdir: stage "action" from "video", whose frozen towers are the EMA
    weights of stage 1.

    Once `stop` has received a signal the stage ends early, saved. `accept` names what a resumed stage may have changed
    (`resumption.CHANGES`); `fault` is one on purpose. Several processes wait `patience` seconds for each other before
    the first step. The stage is one of `families`.

    Raises:
        InputError: an unknown stage, sections that the config lacks, bad config values, a batch that divides neither
            over the mesh nor into parts, towers that the mesh does not divide, an optimizer state to offload where
            devices know no host memory, no finished stage to start from, a checkpoint that differs from this run in
            what is not accepted, damaged checkpoints, another run in the same directory, a disk without room.
        RunError: what `fit` raises.
    """
    stage = stage_of(stage_name, families, configured=config.get("stages", {}))
    family, directory = family_of(stage, families), pathlib.Path(workdir) / stage.name
    family.check_config(stage, config)
    stage, settings = configured_stage(stage, config.stages[stage.name])
    curated, mesh = CuratedDataset.open(curated_path), make_mesh(config.mesh)
    family.check_mesh(stage, config, mesh, settings.run.accumulate)
    if settings.run.offload_optimizer:
        check_host_memory(mesh)
    model = family.build(config, curated)
    reporter = reporter or default_reporter()
    records = make_records(config, curated, family.architecture(model), stage)
    records = resumed_records(directory / "checkpoints", stage, records, accept)
    begun = max(committed_steps(directory / "checkpoints"), default=0)
    for change, fields in records.changes.get(str(begun), {}).items():
        names = ", ".join(field.partition(":")[0] for field in fields)
        reporter.note(f"accepted a change of {change}, at step {begun}: {names}")
    data = family.data(stage, config, curated, settings.run.eval_batches)
    if config.get("checks", False):
        data = checked(data, stage)
    shapes, declarations = family.shapes(model, data.heldout[0])
    stage = without_absent(stage, shapes)
    key, placement = stream(config.seed, "init"), placement_by(shapes, declarations, mesh)

    def start() -> Any:
        def fresh() -> Any:
            return family.init(model, key, data.heldout[0], mesh)[0]

        return starting_parameters(stage, pathlib.Path(workdir), records, fresh, accept, placement)

    tensorboard = bool(config.get("tensorboard", False))
    whole = settings, mesh, config.seed, records, directory, tensorboard, frozenset(accept), fault, patience
    state = fit(Run(stage, model, declarations, *whole), Start(shapes, start), data, reporter, stop)
    return StageResult(state, directory)


def make_records(
    config: ml_collections.ConfigDict, curated: CuratedDataset, model: Mapping[str, Any], stage: Stage
) -> Records:
    """The JSON that every checkpoint of a stage carries; `model` is the architecture's."""
    statistics, embodiment = (
        json.loads((curated.root / name).read_text()) for name in ("statistics.json", "embodiment.json")
    )
    return Records(json.loads(to_json(config)), statistics, embodiment, dict(model), data_sources(curated.root, stage))


def starting_parameters(
    stage: Stage,
    workdir: pathlib.Path,
    records: Records,
    fresh: Callable[[], Any],
    accept: Collection[str] = (),
    placement: Placement | None = None,
) -> Any:
    """Fresh parameters, or the averaged ones of the stage that this one starts from, with the towers that it takes
    from other stages; what is read lies where `placement` says.

    Raises InputError when such a stage is missing, unfinished or of another architecture, or learned with other
    statistics, another embodiment or tokenizer that `accept` does not name.
    """
    if stage.starts_from is None:
        parameters = fresh()
    else:
        directory = workdir / stage.starts_from / "checkpoints"
        earlier = read_checkpoint(directory, placement=placement)
        check_equal(f"checkpoint {directory}: model", earlier.records.model, records.model)
        check_origin(directory, earlier.records, records, accept)
        parameters = require_finished(directory, earlier, stage.starts_from).averaged
    for tower, source in stage.takes:
        directory = workdir / source / "checkpoints"
        found = require_finished(directory, read_checkpoint(directory, placement=placement), source).averaged
        shapes = [jax.tree.map(lambda leaf: list(leaf.shape), tree[tower]) for tree in (found, parameters)]
        check_equal(f"checkpoint {directory}: {tower}", *shapes)
        parameters = {**parameters, tower: found[tower]}
    for source, target in stage.copies:
        part = _part(parameters, source)
        if part is not None and _part(parameters, target) is not None:
            # A copy of its own: a state takes over every array that it is made from, once.
            parameters = _with_part(parameters, target, jax.tree.map(jnp.copy, part))
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
