"""From a run's folder to its report: the trained model, the metrics of both stages, and the files a reader opens."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import ml_collections

from wallwm_jax.cli.driving import serving
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.rng import stream
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.planning import PlanSettings
from wallwm_jax.evaluate import report, results
from wallwm_jax.evaluate.drop_in import drop_in
from wallwm_jax.evaluate.evaluation import evaluate
from wallwm_jax.evaluate.language import evaluate_language
from wallwm_jax.evaluate.rollouts import Rollout, event_rollout, fullest_episode, unified_rollout
from wallwm_jax.evaluate.settings import EvaluationSettings
from wallwm_jax.infer.event_driver import EventDriver
from wallwm_jax.infer.event_mode import EventMode
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.text_sources import CAPTION
from wallwm_jax.train.architecture import architecture, build_model, model_of, reasoner_of
from wallwm_jax.train.checkpoint import check_equal


def evaluate_run(config: ml_collections.ConfigDict, curated: pathlib.Path, workdir: pathlib.Path) -> results.Evaluation:
    """Evaluates the averaged parameters of the finished action stage on held-out episodes.

    Raises InputError if that stage has not finished, or its checkpoint is of another architecture than the config's.
    """
    dataset, run = CuratedDataset.open(curated), TrainedRun(workdir, curated, config)
    checkpoint = run.required("action")
    model = build_model(config.model, len(dataset.views))
    check_equal(f"checkpoint {workdir / 'action'}: model", checkpoint.records.model, architecture(model))
    settings = EvaluationSettings.from_config(config)
    result = evaluate(
        model,
        checkpoint.averaged,
        dataset,
        settings,
        metrics_files={stage: workdir / stage / "metrics.jsonl" for stage in ("video", "action")},
        closed_loop=_closed_loop(settings),
        rollouts=_rollouts(run, dataset, settings),
    )
    return with_language(result, run, dataset)


def with_language(result: results.Evaluation, run: TrainedRun, dataset: CuratedDataset) -> results.Evaluation:
    """Adds what the vision-language side knows, if its stages are finished."""
    checkpoint = run.finished("staircase")
    if checkpoint is None:
        return result
    reasoning, missing = run.reasoning()
    if reasoning is None:
        raise InputError(
            f"{run.workdir}: vision-language side", next(iter(missing.values())), "all that its evaluation reads"
        )
    config, world = run.config, run.required("action")
    settings = EvaluationSettings.from_config(config)
    splits = [split for split in ("heldout", "unseen") if dataset.index.select(split).size]
    parts = (
        reasoner_of(checkpoint.records.model),
        checkpoint.averaged,
        dataset,
        PlanSettings.from_config(config.planning),
    )
    language = [evaluate_language(reasoning, *parts, split) for split in splits]
    mode = EventMode(
        model_of(world.records.model), world.averaged, dataset.embodiment, dataset.statistics, settings.mode
    )
    sources = drop_in(mode, reasoning, dataset, settings.window, seed=settings.seed)
    return dataclasses.replace(result, language=language, text_sources=sources)


def write_report(evaluation: results.Evaluation, workdir: pathlib.Path, seconds: float) -> None:
    """Writes report.html and metrics.json (whose `seconds` are the whole run's) and says where they are."""
    evaluation = dataclasses.replace(evaluation, seconds=seconds)
    report.write_report(evaluation, workdir / "report.html")
    results.write_metrics(evaluation, workdir / "metrics.json")
    print(f"metrics: {(workdir / 'metrics.json').resolve()}")
    print(f"report:  {(workdir / 'report.html').resolve()}")


def _rollouts(
    run: TrainedRun, dataset: CuratedDataset, settings: EvaluationSettings
) -> Callable[[EventMode], list[Rollout]]:
    """One held-out episode in event mode and, if stage 5 is finished, in unified mode."""

    def roll_out(mode: EventMode) -> list[Rollout]:
        episode, key = fullest_episode(dataset, settings.split), stream(settings.seed, "rollout")
        rollouts = [event_rollout(_serve(mode), dataset, episode, key)]
        if run.is_finished("adaptation"):
            unified = Policy.load(run, mode="unified", settings=serving(rows=1))
            rollouts.append(unified_rollout(unified, dataset, episode, key))
        return rollouts

    return roll_out


def _serve(mode: EventMode) -> Policy:
    """A policy on programs that the evaluation has compiled already."""
    return Policy(EventDriver(mode), CAPTION, serving(mode.settings.rows), name="event")


def _closed_loop(settings: EvaluationSettings) -> Callable[[EventMode], results.ClosedLoopResult] | None:
    """Drives the simulator if the config asks for it; the protocol is read before anything is evaluated. The GL backend
    must be named before the simulator is imported."""
    if not settings.closed_loop_episodes:
        return None
    os.environ.setdefault("MUJOCO_GL", "egl")
    from wallwm_jax.evaluate import closed_loop
    from wallwm_jax.evaluate.protocol import ClosedLoopProtocol

    protocol = ClosedLoopProtocol.load(settings.protocol)
    return lambda mode: closed_loop.drive(_serve(mode), protocol, settings.closed_loop_episodes)
