"""Drives a trained run through a closed-loop protocol, in one of its modes, under every controller that it has."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from jax import Array

from wallwm_jax.core.files import write_durably
from wallwm_jax.evaluate import closed_loop_section, page
from wallwm_jax.evaluate.closed_loop_files import CellFiles
from wallwm_jax.evaluate.closed_loop_results import ClosedLoopResult
from wallwm_jax.evaluate.settings import EvaluationSettings
from wallwm_jax.infer.driver import PolicySettings
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.infer.modes import MODES, InferenceMode, mode_of
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.reasoning import ReasoningSettings
from wallwm_jax.infer.text_sources import LATENTS, PLANNER

Controllers = Callable[[Sequence[Any], Array], list[Any]]
"""Environments and a key to the controllers that are compared."""


def drive_run(
    config: ml_collections.ConfigDict,
    curated: pathlib.Path,
    workdir: pathlib.Path,
    mode: str,
    modes: Sequence[InferenceMode] = MODES,
) -> ClosedLoopResult:
    """Every cell of the config's protocol under every controller of a mode; writes closed_loop_<mode>.json, with every
    episode, and .html, anew after each cell. An interrupted drive goes on with the first cell that is not finished.

    `mode` is looked up in the table `modes`. Raises InputError for an unknown mode, and for one whose stage has not
    been trained.
    """
    row, run = mode_of(mode, modes, "--mode"), TrainedRun(workdir, curated, config)
    os.environ.setdefault("MUJOCO_GL", "egl")
    from wallwm_jax.evaluate import closed_loop
    from wallwm_jax.evaluate.protocol import ClosedLoopProtocol

    settings = EvaluationSettings.from_config(config)
    protocol = ClosedLoopProtocol.load(settings.protocol)
    policy = Policy.load(run, mode=mode, settings=serving(settings.mode.rows), modes=modes)
    result = ClosedLoopResult(protocol.source, protocol.rubric.source, ())
    for source, reason in policy.driver.missing.items():
        if source in row.compared:
            print(f"not compared: {row.compared[source]}: {reason}")
    files, make = cell_files(run, row, settings, protocol), controllers(row, policy, protocol)
    for cell in closed_loop.compare(make, protocol, settings.closed_loop_episodes, settings.seed, files):
        result = dataclasses.replace(result, cells=(*result.cells, cell))
        text = json.dumps(result.plain(details=True), indent=1) + "\n"
        write_durably(workdir / f"closed_loop_{mode}.json", text)
        html = page.document(f"wallwm: {mode} mode in the closed loop", "", closed_loop_section.render(result))
        write_durably(workdir / f"closed_loop_{mode}.html", html)
    print(f"report: {(workdir / f'closed_loop_{mode}.html').resolve()}")
    return result


def serving(rows: int) -> PolicySettings:
    """How the command line has `rows` robots served: nothing waits for a stage only to be timed."""
    return PolicySettings(rows, ReasoningSettings.rows, checks=False, timings=False)


def cell_files(run: TrainedRun, mode: InferenceMode, settings: EvaluationSettings, protocol: Any) -> CellFiles:
    """Where a drive's finished cells are kept. What other weights or settings have driven is driven again."""
    from wallwm_jax.evaluate.controllers import ExpertController, HoldController

    world, reasoning = run.digest("adaptation") or run.digest("action"), run.digest("staircase")
    reasons = {title for source, title in mode.compared.items() if source in (LATENTS, PLANNER)}

    def weights(controller: str) -> dict[str, str | None]:
        if controller in (ExpertController.name, HoldController.name):
            return {}
        return {"world": world} | ({"reasoning": reasoning} if controller in reasons else {})

    identity = {"protocol": protocol.source, "rubric": protocol.rubric.source, "settings": str(settings)}
    return CellFiles(run.workdir / f"closed_loop_{mode.name}", identity, weights)


def controllers(mode: InferenceMode, policy: Policy, protocol: Any) -> Controllers:
    """What is compared in a mode: the baselines if its row says so, and the policy on the row's text sources."""
    from wallwm_jax.evaluate.controllers import ExpertController, HoldController, compared_controllers

    def make(environments: Sequence[Any], key: Array) -> list[Any]:
        baselines = [ExpertController(environments), HoldController()] if mode.baselines else []
        return [*baselines, *compared_controllers(mode, policy, key, protocol.replan_every)]

    return make
