"""A run from a config: record, curate, train, evaluate. Each part finds what an interrupted run left."""

import contextlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
from rich.console import Console

from wallwm_jax.cli.families import Commands, commands_of, commands_of_mode
from wallwm_jax.core.config import load, to_json
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import check_writable, write_durably
from wallwm_jax.train.families import FAMILIES, Families, family_of, recipe_of, stage_of
from wallwm_jax.train.family import require_sections
from wallwm_jax.train.stages import Stage


class RunFolder(NamedTuple):
    """A resolved config, the folder that holds everything a run writes, and the families that its stages are of."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    families: Families = FAMILIES

    @property
    def curated(self) -> pathlib.Path:
        return self.workdir / "curated"

    @property
    def timings(self) -> pathlib.Path:
        return self.workdir / "seconds.json"


class Trained(NamedTuple):
    """Whether a stage has come to its end, and the signal that asked it to stop, if one did."""

    finished: bool
    signal: str | None


def open_run(specification: str, overrides: list[str], workdir: str, families: Families = FAMILIES) -> RunFolder:
    """Loads the config and checks all of it that can be checked before anything is read or compiled.

    The config must have the sections that the stages of its recipe need. Those of other stages may be absent; if they
    are there, they are checked too.

    Raises InputError naming the first missing section, the first wrong key or value, or a folder that cannot be
    written.
    """
    from wallwm_jax.core.mesh import make_mesh
    from wallwm_jax.data.curation.curate import CurationSettings

    config = load(specification, overrides)
    require_sections(config, ("seed", "mesh", "recipe", "stages"), "a run")
    if "data" in config:
        CurationSettings.from_config(config)
    mesh, recipe = make_mesh(config.mesh), recipe_of(config, families)
    for family in families:
        for stage in family.stages:
            if stage in recipe or _is_described(stage, config):
                settings = family.check_config(stage, config)
            if stage in recipe:
                family.check_mesh(stage, config, mesh, settings.run.accumulate)
    for commands in (commands_of(family.name) for family in families):
        if commands is not None and commands.is_described(config):
            commands.check(config)
    check_writable(pathlib.Path(workdir), "--workdir")
    return RunFolder(config, pathlib.Path(workdir), families)


def _is_described(stage: Stage, config: ml_collections.ConfigDict) -> bool:
    """Whether a config has all sections of a stage, which its recipe need not name."""
    return stage.name in config.stages and all(name in config for name in stage.sections)


def run(specification: str, overrides: list[str], workdir: str, accept: Sequence[str], patience: float) -> bool:
    """The whole path, each part only if it has not been done; False if it was asked to stop before its end.

    Several processes train together on what one has curated before, `accept` and `patience` as in `train`; they record,
    curate and evaluate nothing. Raises InputError if nothing has been curated for them.
    """
    import jax

    folder = open_run(specification, overrides, workdir)
    if jax.process_count() == 1:
        record(folder)
        if not folder.curated.exists():
            curate(folder)
    elif not folder.curated.exists():
        raise InputError(str(folder.curated), "nothing", "a curated dataset: `wallwm curate`, before several processes")
    for stage in recipe_of(folder.config, folder.families):
        trained = train(folder, stage.name, accept, None, patience)
        if not trained.finished:
            return False
        if trained.signal:
            text = f"asked to stop ({trained.signal}): the same command goes on after stage {stage.name}"
            Console().print(text, soft_wrap=True)
            return False
    if "evaluate" not in folder.config:
        Console().print("all stages are trained; nothing is evaluated: the config has no section 'evaluate'")
    elif jax.process_count() == 1:
        evaluate(folder)
    elif jax.process_index() == 0:
        Console().print("all stages are trained; the same command in one process evaluates", soft_wrap=True)
    return True


def record(folder: RunFolder) -> None:
    """Records the config's simulated episodes if it asks for them and they are not there."""
    from wallwm_jax.cli import recording

    require_sections(folder.config, ("dataset",), "recording")
    wanted, root = folder.config.dataset.record_episodes, pathlib.Path(folder.config.dataset.root)
    if wanted and not root.exists():
        with _timed(folder, "record"):
            recording.record(folder.config.dataset.record_plan, str(root), wanted, workers=os.cpu_count() or 1)


def curate(folder: RunFolder) -> None:
    """Carves the dataset into `<workdir>/curated`, which appears when it is complete."""
    from wallwm_jax.data.curation.curate import CurationSettings
    from wallwm_jax.data.curation.curate import curate as curate_dataset

    require_sections(folder.config, ("dataset", "data"), "curating")
    dataset = folder.config.dataset
    settings = CurationSettings.from_config(folder.config)
    with _timed(folder, "curate"):
        report = curate_dataset(dataset.root, folder.curated, dataset.embodiment, settings, overwrite=True)
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
    Console().print(f"curated {dataset.root}: {counts}", soft_wrap=True)
    for rejection in report.rejections:
        Console().print(f"rejected {rejection}", soft_wrap=True)


def train(folder: RunFolder, choice: str | int, accept: Sequence[str], inject: str | None, patience: float) -> Trained:
    """Trains the stage of a name or number, or goes on with it, until its end or until SIGTERM or SIGINT asks it to
    stop.

    `accept` names what may have changed since it was interrupted, and `inject` a fault on purpose (`Fault.parse`).
    Several processes wait `patience` seconds for the one that prepares the stage's batches, and for each other before
    they train.
    """
    import jax

    from wallwm_jax.core.processes import wait_for_all
    from wallwm_jax.train.faults import Fault
    from wallwm_jax.train.loop import train_stage
    from wallwm_jax.train.resumption import check_changes
    from wallwm_jax.train.stop import StopSignals

    logging.getLogger("absl").addFilter(_is_told_once)
    check_changes(accept)
    fault = None if inject is None else Fault.parse(inject)

    stage = stage_of(choice, folder.families, configured=folder.config.stages, where="--stage")
    family_of(stage, folder.families).check_config(stage, folder.config)
    first = jax.process_index() == 0
    with _timed(folder, stage.name) if first else contextlib.nullcontext():
        if stage.batches.prepare is not None:
            if first:
                stage.batches.prepare(stage, folder.config, folder.curated)
            wait_for_all("windows", patience)
        with StopSignals() as stop:
            options = {"stop": stop, "accept": accept, "fault": fault, "patience": patience}
            options["families"] = folder.families
            trained = train_stage(folder.config, stage.name, folder.curated, folder.workdir, **options)
    step, steps = int(trained.state.step), folder.config.stages[stage.name].steps
    if step < steps:
        who = stop.received or "another process was"
        text = f"asked to stop ({who}): stage {stage.name} is saved at step {step} of {steps}"
        Console().print(f"{text}; the same command goes on from there", soft_wrap=True)
    return Trained(step >= steps, stop.received)


def _is_told_once(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Orbax logs of errors which it also raises."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def evaluate(folder: RunFolder, rerun: bool = False) -> None:
    """Evaluates the trained models on held-out episodes; writes report.html and metrics.json into the workdir, and with
    `rerun` its rollouts as rollouts.rrd.

    Raises InputError for a config that lacks what the evaluation needs.
    """
    from wallwm_jax.evaluate import rerun_export

    if rerun:
        rerun_export.check_installed()
    for commands in _evaluated(folder):
        commands.require(folder.config)
        with _timed(folder, "evaluate"):
            found = commands.evaluate(folder.config, folder.curated, folder.workdir)
        commands.report(found, folder.workdir, sum(_seconds(folder).values()), rerun)


def _evaluated(folder: RunFolder) -> list[Commands]:
    """How the families that the config describes stages of are evaluated; raises InputError if none of them is."""
    described = [
        family.name for family in folder.families if any(stage.name in folder.config.stages for stage in family.stages)
    ]
    found = [commands for name in described if (commands := commands_of(name)) is not None]
    if not found:
        raise InputError("config.stages", f"families {described}", "stages of a family that has an evaluation")
    return found


def drive(folder: RunFolder, mode: str, rerun: bool = False) -> None:
    """Drives the simulator through the config's protocol in an inference mode of one of the families; with `rerun` also
    writes the films as closed_loop_<mode>.rrd.

    Raises InputError for a mode that no family has, and for a config that lacks what driving needs.
    """
    from wallwm_jax.evaluate import rerun_export

    commands = commands_of_mode(mode)
    commands.require(folder.config)
    if rerun:
        rerun_export.check_installed()
    with _timed(folder, f"drive_{mode}"):
        driven = commands.drive(folder.config, folder.curated, folder.workdir, mode)
    if rerun:
        commands.film(driven, folder.workdir / f"closed_loop_{mode}.rrd")


class _timed:
    """Adds the seconds of a part of a run to `<workdir>/seconds.json`; an interrupted run's parts add up. A file of
    seconds that cannot be read or written is told on one line, and the run goes on."""

    def __init__(self, folder: RunFolder, part: str):
        self.folder, self.part = folder, part

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        seconds = _seconds(self.folder)
        seconds[self.part] = round(seconds.get(self.part, 0.0) + time.monotonic() - self.started, 1)
        try:
            self.folder.workdir.mkdir(parents=True, exist_ok=True)
            write_durably(self.folder.timings, json.dumps(seconds, indent=1))
        except OSError as problem:
            Console().print(f"{self.folder.timings} cannot be written ({problem.strerror})", soft_wrap=True)
        if error[0] is None:
            write_durably(self.folder.workdir / "config.json", to_json(self.folder.config))


def _seconds(folder: RunFolder) -> dict[str, float]:
    """The seconds by part; none if the file is damaged, which is then moved aside."""
    try:
        return {part: float(value) for part, value in json.loads(folder.timings.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        aside, text = folder.timings.with_name(f"{folder.timings.name}.damaged"), f"{folder.timings} is damaged"
        with contextlib.suppress(OSError):
            os.replace(folder.timings, aside)
        Console().print(f"{text} ({type(error).__name__}): kept as {aside.name}, counted anew", soft_wrap=True)
        return {}
