"""The training loop of one stage over any model and any batches: resumable at every step, bit for bit.

What a run computes is a function of (config, seed) and counts steps only. Wall clock enters the report, never the
training.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from wallwm_jax.core.mesh import batch_sharding
from wallwm_jax.core.rng import stream
from wallwm_jax.core.types import TrainingBatch
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.train.checkpoint import CheckpointStore, Records
from wallwm_jax.train.metrics import MetricsFile, TensorBoard
from wallwm_jax.train.prefetch import Prefetcher, to_mesh
from wallwm_jax.train.progress import Reporter
from wallwm_jax.train.settings import StageSettings
from wallwm_jax.train.stages import Stage
from wallwm_jax.train.state import TrainState, averaged_parameters, create_state, state_shardings
from wallwm_jax.train.step import Step, make_evaluation, make_train_step


@dataclasses.dataclass(frozen=True)
class StageData:
    """`train(step)` gives the batches from that step on (this process's rows); `heldout` is fixed."""

    train: Callable[[int], Iterable[TrainingBatch]]
    heldout: Sequence[TrainingBatch]


@dataclasses.dataclass(frozen=True)
class Run:
    """One stage on one model. `directory` receives checkpoints/ and metrics.jsonl (and tensorboard/ if asked for)."""

    stage: Stage
    model: Any
    declarations: Any
    settings: StageSettings
    mesh: Mesh
    seed: int
    records: Records
    directory: pathlib.Path
    tensorboard: bool = False


def fit(run: Run, initial_parameters: Any, data: StageData, reporter: Reporter) -> TrainState:
    """Trains to `settings.run.steps`, going on from the newest checkpoint in the run's directory if there is one.

    Raises InputError if that checkpoint belongs to another architecture or is damaged.
    """
    with jax.set_mesh(run.mesh):
        trainer = _Trainer(run, initial_parameters, data, reporter)
        try:
            return trainer.train()
        finally:
            trainer.close()


class Programs(NamedTuple):
    """A run's functions, compiled when first called: `create(parameters) -> state`; `step(state, batch) -> (state,
    metrics)`, which consumes its state; `evaluation(parameters, batch, key) -> metrics`. `state` is abstract."""

    create: Callable[[Any], TrainState]
    step: Step
    evaluation: Callable[..., dict[str, Any]]
    state: TrainState


def make_programs(run: Run, parameters: Any) -> Programs:
    """The programs for parameters of these shapes; to be called, and used, under the run's mesh."""
    trained, _ = freeze.split(run.declarations, run.stage.trains)
    optimizer = build_optimizer(run.settings.optimizer, trained)

    def create(tree: Any) -> TrainState:
        return create_state(run.stage, optimizer, tree)

    abstract = jax.eval_shape(create, parameters)
    shardings = state_shardings(abstract, run.declarations, run.mesh)
    step = make_train_step(run.model, run.stage, optimizer, run.settings, run.seed)
    return Programs(
        jax.jit(create, out_shardings=shardings),
        jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)),
        jax.jit(make_evaluation(run.model, run.stage, run.settings)),
        jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), abstract, shardings),
    )


class _Trainer:
    """The programs, the state and the open files of one call of `fit`."""

    def __init__(self, run: Run, initial_parameters: Any, data: StageData, reporter: Reporter):
        self.run, self.data, self.reporter = run, data, reporter
        self.sharding = batch_sharding(run.mesh)
        self.programs = make_programs(run, initial_parameters)
        self.store = CheckpointStore(run.directory / "checkpoints")
        self.window: list[dict[str, Any]] = []
        self.seconds = 0.0
        if self.store.latest_step() is None:
            self.state = self.programs.create(initial_parameters)
        else:
            self.state, _, progress = self.store.restore(self.programs.state, run.records.model)
            self.window, self.seconds = list(progress["window"]), progress["seconds"]
        self.start = int(self.state.step)
        self.files = [MetricsFile(run.directory / "metrics.jsonl", self.start)]
        if run.tensorboard:
            self.files.append(TensorBoard(run.directory / "tensorboard", self.start))
        self.heldout: list[Any] = []

    def train(self) -> TrainState:
        settings = self.run.settings.run
        self.reporter.start(self.run.stage.name, self.start, settings.steps)
        if self.start >= settings.steps:
            return self.state
        self.clock = time.monotonic()
        with Prefetcher(self.data.train(self.start), self.sharding) as batches:
            for number in range(self.start + 1, settings.steps + 1):
                self.state, metrics = self.programs.step(self.state, next(batches))
                self.window.append(metrics)
                self.reporter.advance(number)
                last = number == settings.steps
                evaluate = last or number % settings.eval_every == 0
                if evaluate or number % settings.log_every == 0:
                    self._report(number, evaluate, last)
                if last or number % settings.checkpoint_every == 0:
                    self._save()
        return self.state

    def close(self) -> None:
        self.reporter.stop()
        self.store.close()
        for file in self.files[1:]:
            file.close()

    def _report(self, number: int, evaluate: bool, last: bool) -> None:
        """One line: means over the steps since the last line, and the held-out loss if it is due.

        The held-out loss is that of the raw parameters, so that its early values say what has been learned rather
        than how long the average remembers; the last line adds the average's own ("heldout_loss_average").
        """
        window, events = jax.device_get(self.window), int(self.state.events)
        elapsed = self._elapsed()
        line = {"step": number, "stage": self.run.stage.name}
        line |= {name: _mean(window, name) for name in window[0] if name not in ("learning_rate", "tokens")}
        line["learning_rate"] = float(window[-1]["learning_rate"])
        if int(self.state.skipped):
            line["skipped"] = int(self.state.skipped)
        if evaluate:
            line |= {f"heldout_{name}": value for name, value in self._evaluate(self.state.parameters).items()}
        if last:
            average = averaged_parameters(self.state, self.run.stage)
            line["heldout_loss_average"] = self._evaluate(average)["loss"]
        tokens = sum(float(step["tokens"]) for step in window)
        line |= {"events": events, "tokens_per_s": round(tokens / max(elapsed, 1e-9), 1)}
        self.window.clear()
        self.seconds += elapsed + self._elapsed()
        line["seconds"] = round(self.seconds, 2)
        for file in self.files if jax.process_index() == 0 else ():
            file.write(line)
        self.reporter.report(line)

    def _evaluate(self, parameters: Any) -> dict[str, float]:
        """Mean losses over the held-out batches, each with its own fixed noise and times."""
        if not self.heldout:
            self.heldout = [to_mesh(batch, self.sharding) for batch in self.data.heldout]
        keys = [stream(self.run.seed, "heldout", index) for index in range(len(self.heldout))]
        found = [
            self.programs.evaluation(parameters, batch, key) for batch, key in zip(self.heldout, keys, strict=True)
        ]
        found = jax.device_get(found)
        return {name: _mean(found, name) for name in found[0]}

    def _save(self) -> None:
        self.window = [{name: float(value) for name, value in step.items()} for step in jax.device_get(self.window)]
        self.seconds += self._elapsed()
        self.store.save(self.state, self.run.records, {"window": self.window, "seconds": self.seconds})
        self._elapsed()

    def _elapsed(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        elapsed, self.clock = now - self.clock, now
        return elapsed


def _mean(steps: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([float(step[name]) for step in steps]))
