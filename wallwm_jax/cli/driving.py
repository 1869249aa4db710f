"""Drives a trained run through a closed-loop protocol, in one of its modes, under every controller that it has."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from jax import Array

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import file_digest, write_durably
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.planning import TOKENIZER, PlanSettings
from wallwm_jax.data.tokenizer import CaptionTokenizer
from wallwm_jax.evaluate import closed_loop_section, page
from wallwm_jax.evaluate.closed_loop_files import CellFiles
from wallwm_jax.evaluate.closed_loop_results import ClosedLoopResult
from wallwm_jax.evaluate.settings import EvaluationSettings
from wallwm_jax.infer.conditions import ChunkSettings
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.infer.reasoning import Reasoning, ReasoningSettings
from wallwm_jax.infer.reasoning_sources import LatentSource
from wallwm_jax.infer.text_sources import CaptionSource, InstructionSource, TextRequest
from wallwm_jax.infer.unified_mode import UnifiedMode, UnifiedModeSettings
from wallwm_jax.train.architecture import model_of, reasoner_of
from wallwm_jax.train.checkpoint import Checkpoint, committed_steps, latest_records, read_checkpoint
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.loop import require_finished
from wallwm_jax.train.manifest import MANIFEST
from wallwm_jax.train.world_action import loader_settings

MODES = ("event", "unified")
LATENTS = "Staircase latents"
Controllers = Callable[[Sequence[Any], Array], list[Any]]
"""Environments and a key to the controllers that are compared."""


def drive_run(
    config: ml_collections.ConfigDict, curated: pathlib.Path, workdir: pathlib.Path, mode: str
) -> ClosedLoopResult:
    """Every cell of the config's protocol under every controller of a mode; writes closed_loop_<mode>.json, with every
    episode, and .html, anew after each cell. An interrupted drive goes on with the first cell that is not finished.

    The world model is that of the last finished stage of 5 and 2. Raises InputError for an unknown mode, and for one
    whose stage has not been trained.
    """
    if mode not in MODES:
        raise InputError("--mode", repr(mode), f"one of {MODES}")
    os.environ.setdefault("MUJOCO_GL", "egl")
    from wallwm_jax.evaluate import closed_loop
    from wallwm_jax.evaluate.protocol import ClosedLoopProtocol

    settings, dataset = EvaluationSettings.from_config(config), CuratedDataset.open(curated)
    protocol = ClosedLoopProtocol.load(settings.protocol)
    make = {"event": event_controllers, "unified": unified_controllers}[mode](config, dataset, workdir, protocol)
    result = ClosedLoopResult(protocol.source, protocol.rubric.source, ())
    files = cell_files(workdir, mode, settings, protocol)
    for cell in closed_loop.compare(make, protocol, settings.closed_loop_episodes, settings.seed, files):
        result = dataclasses.replace(result, cells=(*result.cells, cell))
        text = json.dumps(result.plain(details=True), indent=1) + "\n"
        write_durably(workdir / f"closed_loop_{mode}.json", text)
        html = page.document(f"wallwm: {mode} mode in the closed loop", "", closed_loop_section.render(result))
        write_durably(workdir / f"closed_loop_{mode}.html", html)
    print(f"report: {(workdir / f'closed_loop_{mode}.html').resolve()}")
    return result


def cell_files(workdir: pathlib.Path, mode: str, settings: EvaluationSettings, protocol: Any) -> CellFiles:
    """Where a drive's finished cells are kept. What other weights or settings have driven is driven again."""
    from wallwm_jax.evaluate.controllers import ExpertController, HoldController
    from wallwm_jax.evaluate.unified_controllers import PlannedEventController

    world = _digest(workdir, "adaptation") or _digest(workdir, "action")
    reasoning = _digest(workdir, "staircase")

    def weights(controller: str) -> dict[str, str | None]:
        if controller in (ExpertController.name, HoldController.name):
            return {}
        reasons = controller in (PlannedEventController.name, f"unified mode, {LATENTS}")
        return {"world": world} | ({"reasoning": reasoning} if reasons else {})

    identity = {"protocol": protocol.source, "rubric": protocol.rubric.source, "settings": str(settings)}
    return CellFiles(workdir / f"closed_loop_{mode}", identity, weights)


def _digest(workdir: pathlib.Path, name: str) -> str | None:
    """Of a finished stage's last checkpoint."""
    directory = workdir / name / "checkpoints"
    if not _is_finished(directory, name):
        return None
    return file_digest(directory / str(committed_steps(directory)[-1]) / MANIFEST)


def event_controllers(
    config: ml_collections.ConfigDict, dataset: CuratedDataset, workdir: pathlib.Path, protocol: Any
) -> Controllers:
    """The scripted expert, holding still, event mode with the oracle's captions (open loop, and observing again where
    the protocol says how often), and event mode with its own planner."""
    from wallwm_jax.evaluate.controllers import EventController, ExpertController, HoldController
    from wallwm_jax.evaluate.unified_controllers import PlannedEventController

    world = world_checkpoint(workdir)
    settings = EvaluationSettings.from_config(config).mode
    model = model_of(world.records.model)
    mode = EventMode(model, world.averaged, dataset.embodiment, dataset.statistics, settings)
    reasoning = reasoning_of(config, dataset, workdir)

    def make(environments: Sequence[Any], key: Array) -> list[Any]:
        controllers = [ExpertController(environments), HoldController(), EventController(mode, key)]
        if protocol.replan_every:
            controllers.append(EventController(mode, key, protocol.replan_every))
        if reasoning is not None:
            controllers.append(PlannedEventController(mode, reasoning, key))
        return controllers

    return make


def unified_controllers(
    config: ml_collections.ConfigDict, dataset: CuratedDataset, workdir: pathlib.Path, protocol: Any
) -> Controllers:
    """Unified mode on the global instruction, on the oracle's caption a chunk, and on the Staircase's latents."""
    from wallwm_jax.evaluate.unified_controllers import UnifiedController

    finished(workdir, "adaptation", required=True)
    mode = unified_mode(config, dataset, workdir, EvaluationSettings.from_config(config).mode.rows)
    reasoning = reasoning_of(config, dataset, workdir)

    def make(environments: Sequence[Any], key: Array) -> list[Any]:
        controllers = [
            UnifiedController(mode, "global instruction", InstructionSource(mode.encode), key),
            UnifiedController(mode, "a caption a chunk", CaptionSource(mode.encode, _told), key, oracle=True),
        ]
        if reasoning is not None:
            latents = LatentSource(reasoning)
            controllers.append(UnifiedController(mode, LATENTS, latents, key, reasoning=reasoning))
        return controllers

    return make


def _told(request: TextRequest) -> str:
    """The due event's caption; nothing, at which the mode holds still, if nobody knows it."""
    return request.caption or ""


def unified_mode(
    config: ml_collections.ConfigDict, dataset: CuratedDataset, workdir: pathlib.Path, rows: int
) -> UnifiedMode | None:
    """Unified mode for `rows` robots at once, if stage 5 is finished."""
    stage = stage_of("adaptation")
    world = finished(workdir, stage.name)
    if world is None:
        return None
    window, solver = (
        ChunkSettings.of(loader_settings(stage, config)),
        EvaluationSettings.from_config(config).mode.solver,
    )
    settings = UnifiedModeSettings(rows, window, solver)
    return UnifiedMode(model_of(world.records.model), world.averaged, dataset.embodiment, dataset.statistics, settings)


def world_checkpoint(workdir: pathlib.Path) -> Checkpoint:
    """The last checkpoint of stage 5, or else of stage 2."""
    return finished(workdir, "adaptation") or finished(workdir, "action", required=True)


def reasoning_of(config: ml_collections.ConfigDict, dataset: CuratedDataset, workdir: pathlib.Path) -> Reasoning | None:
    """The vision-language side, if its stages are finished."""
    checkpoint = finished(workdir, "staircase")
    if checkpoint is None:
        return None
    settings = ReasoningSettings(PlanSettings.from_config(config.planning), config.data.text_length)
    tokens, model = CaptionTokenizer.load(dataset.root / TOKENIZER), reasoner_of(checkpoint.records.model)
    return Reasoning(model, checkpoint.averaged, tokens, dataset.embodiment, dataset.statistics, settings)


def finished(workdir: pathlib.Path, name: str, required: bool = False) -> Checkpoint | None:
    """The checkpoint of a stage that has run to its end; None, or InputError if it is `required`."""
    directory = workdir / name / "checkpoints"
    if not required and not _is_finished(directory, name):
        return None
    return require_finished(directory, read_checkpoint(directory), name)


def _is_finished(directory: pathlib.Path, name: str) -> bool:
    """Whether the newest checkpoint is of the stage's last step, from its records alone."""
    records = latest_records(directory)
    return records is not None and committed_steps(directory)[-1] >= records.config["stages"][name]["steps"]
