"""A run from a config: record, curate, train, evaluate. Each part finds what an interrupted run left."""

import contextlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
from rich.console import Console

from wallwm_jax.core.config import load, to_json
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import check_writable, write_durably


class RunFolder(NamedTuple):
    """A resolved config and the folder that holds everything a run writes."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path

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


def open_run(specification: str, overrides: list[str], workdir: str) -> RunFolder:
    """Loads the config and checks all of it that can be checked before anything is read or compiled.

    Raises InputError naming the first wrong key or value, or a folder that cannot be written.
    """
    from wallwm_jax.core.mesh import make_mesh
    from wallwm_jax.data.curation.curate import CurationSettings
    from wallwm_jax.data.curation.window_clusters import WindowIndexSettings
    from wallwm_jax.data.planning import PlanSettings
    from wallwm_jax.data.settings import LoaderSettings
    from wallwm_jax.evaluate.settings import EvaluationSettings
    from wallwm_jax.train.architecture import build_model, build_reasoner
    from wallwm_jax.train.settings import stage_settings
    from wallwm_jax.train.sides import check_mesh, loader_settings
    from wallwm_jax.train.stages import STAGES

    config = load(specification, overrides)
    CurationSettings.from_config(config)
    LoaderSettings.from_config(config.data)
    PlanSettings.from_config(config.planning)
    mesh = make_mesh(config.mesh)
    build_reasoner(config.reasoner, build_model(config.model, views=1).variant, 1, config.data.text_length)
    WindowIndexSettings(**config.windows.index.to_dict())
    for stage in STAGES:
        settings = stage_settings(stage, config.stages[stage.name])
        loader_settings(stage, config)
        if stage.number in config.recipe:
            check_mesh(stage, config, mesh, settings.run.accumulate)
    EvaluationSettings.from_config(config)
    check_writable(pathlib.Path(workdir), "--workdir")
    return RunFolder(config, pathlib.Path(workdir))


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
    for stage in folder.config.recipe:
        trained = train(folder, stage, accept, None, patience)
        if not trained.finished:
            return False
        if trained.signal:
            text = "the same command goes on after the stage that has just been trained"
            Console().print(f"asked to stop ({trained.signal}): {text}", soft_wrap=True)
            return False
    if jax.process_count() == 1:
        evaluate(folder)
    elif jax.process_index() == 0:
        Console().print("all stages are trained; the same command in one process evaluates", soft_wrap=True)
    return True


def record(folder: RunFolder) -> None:
    """Records the config's simulated episodes if it asks for them and they are not there."""
    from wallwm_jax.cli import recording

    wanted, root = folder.config.dataset.record_episodes, pathlib.Path(folder.config.dataset.root)
    if wanted and not root.exists():
        with _timed(folder, "record"):
            recording.record(folder.config.dataset.record_plan, str(root), wanted, workers=os.cpu_count() or 1)


def curate(folder: RunFolder) -> None:
    """Carves the dataset into `<workdir>/curated`, which appears when it is complete."""
    from wallwm_jax.data.curation.curate import CurationSettings
    from wallwm_jax.data.curation.curate import curate as curate_dataset

    dataset = folder.config.dataset
    settings = CurationSettings.from_config(folder.config)
    with _timed(folder, "curate"):
        report = curate_dataset(dataset.root, folder.curated, dataset.embodiment, settings, overwrite=True)
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
    Console().print(f"curated {dataset.root}: {counts}", soft_wrap=True)
    for rejection in report.rejections:
        Console().print(f"rejected {rejection}", soft_wrap=True)


def train(folder: RunFolder, number: int, accept: Sequence[str], inject: str | None, patience: float) -> Trained:
    """Trains stage `number`, or goes on with it, until its end or until SIGTERM or SIGINT asks it to stop.

    `accept` names what may have changed since it was interrupted, and `inject` a fault on purpose (`Fault.parse`).
    Several processes wait `patience` seconds for the one that prepares the stage's windows, and for each other before
    they train.
    """
    import jax

    from wallwm_jax.core.processes import wait_for_all
    from wallwm_jax.train.faults import Fault
    from wallwm_jax.train.loop import train_stage
    from wallwm_jax.train.resumption import check_changes
    from wallwm_jax.train.stages import STAGES
    from wallwm_jax.train.stop import StopSignals

    logging.getLogger("absl").addFilter(_is_told_once)
    check_changes(accept)
    fault = None if inject is None else Fault.parse(inject)

    stages = {stage.number: stage for stage in STAGES}
    if number not in stages:
        raise InputError("--stage", number, f"one of {sorted(stages)}")
    stage = stages[number]
    first = jax.process_index() == 0
    with _timed(folder, stage.name) if first else contextlib.nullcontext():
        if stage.window == "observation":
            if first:
                index_observation_windows(folder, stage)
            wait_for_all("windows", patience)
        with StopSignals() as stop:
            options = {"stop": stop, "accept": accept, "fault": fault, "patience": patience}
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


def index_observation_windows(folder: RunFolder, stage: Any) -> None:
    """Reruns the clusterings on the stage's windows, unless that has been done."""
    from wallwm_jax.data.curated import WINDOWS, CuratedDataset
    from wallwm_jax.data.curation.window_clusters import WindowIndexSettings, index_windows
    from wallwm_jax.train.sides import loader_settings

    if not (folder.curated / WINDOWS).is_file():
        settings = WindowIndexSettings(**folder.config.windows.index.to_dict())
        index_windows(CuratedDataset.open(folder.curated), loader_settings(stage, folder.config), settings)


def evaluate(folder: RunFolder, rerun: bool = False) -> None:
    """Evaluates the trained model on held-out episodes; writes report.html and metrics.json into the workdir, and with
    `rerun` its rollouts as rollouts.rrd."""
    from wallwm_jax.cli import evaluation
    from wallwm_jax.evaluate import rerun_export

    if rerun:
        rerun_export.check_installed()

    with _timed(folder, "evaluate"):
        result = evaluation.evaluate_run(folder.config, folder.curated, folder.workdir)
    evaluation.write_report(result, folder.workdir, sum(_seconds(folder).values()))
    if rerun:
        rerun_export.write_rollouts(result.rollouts, folder.workdir / "rollouts.rrd")


def drive(folder: RunFolder, mode: str, rerun: bool = False) -> None:
    """Drives the simulator through the config's protocol in one of the two modes; with `rerun` also writes the films as
    closed_loop_<mode>.rrd."""
    from wallwm_jax.cli import driving
    from wallwm_jax.evaluate import rerun_export

    if rerun:
        rerun_export.check_installed()
    with _timed(folder, f"drive_{mode}"):
        result = driving.drive_run(folder.config, folder.curated, folder.workdir, mode)
    if rerun:
        rerun_export.write_closed_loop(result, folder.workdir / f"closed_loop_{mode}.rrd")


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
