"""The training loop of one stage over any model and any batches: resumable at every step, bit for bit.

What a run computes is a function of (config, seed) and counts steps only. Wall clock enters the report, never the
training. Saves run in the background; a failed one, or too many steps in a row that are not finite, end the run.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from wallwm_jax.core.errors import RunError
from wallwm_jax.core.mesh import batch_sharding
from wallwm_jax.core.message_board import message_board
from wallwm_jax.core.processes import wait_for_all
from wallwm_jax.core.rng import stream
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.train.agreement import StopAgreement
from wallwm_jax.train.assignment import announce_assignment
from wallwm_jax.train.checkpoint import KEEP, CheckpointStore, check_all_committed
from wallwm_jax.train.disk_space import check_space
from wallwm_jax.train.goodput import Goodput
from wallwm_jax.train.lock import DirectoryLock
from wallwm_jax.train.manifest import MANIFEST
from wallwm_jax.train.metrics import MetricsFile, TensorBoard
from wallwm_jax.train.nonfinite import SkipWatch, keep_failed_step
from wallwm_jax.train.prefetch import Prefetcher, to_mesh
from wallwm_jax.train.progress import Reporter
from wallwm_jax.train.run import Run, StageData, Start
from wallwm_jax.train.state import TrainState, averaged_parameters, create_state, state_shardings
from wallwm_jax.train.step import Step, make_evaluation, make_train_step
from wallwm_jax.train.stop import StopSignals


def fit(run: Run, initial: Start, data: StageData, reporter: Reporter, stop: StopSignals | None = None) -> TrainState:
    """Trains to `settings.run.steps`, going on from the newest checkpoint in the run's directory if there is one. Once
    `stop` has received a signal it finishes the step under way, saves, and returns the state of that step; of several
    processes all do, after the same step, as soon as one of them has received it (`agreement`).

    Raises:
        InputError: the checkpoint belongs to another architecture or is damaged; another run writes into the directory;
            the disk has no room for the checkpoints.
        RunError: a save failed, `stop_after_skipped` steps in a row were not finite, or other processes of the run did
            not get as far as the first step.
    """
    with DirectoryLock(run.directory), jax.set_mesh(run.mesh):
        announce_assignment(run, initial.shapes, reporter)
        trainer = _Trainer(run, initial, data, reporter, stop or StopSignals())
        try:
            return trainer.train()
        finally:
            trainer.close()


class Programs(NamedTuple):
    """A run's functions, compiled when first called: `create(parameters) -> state`, which takes over parameters that
    are on the mesh; `step(state, batch) -> (state, metrics)`, which consumes its state; `evaluation(parameters, batch,
    key) -> metrics`. `state` is abstract."""

    create: Callable[[Any], TrainState]
    step: Step
    evaluation: Callable[..., dict[str, Any]]
    state: TrainState


def make_programs(run: Run, shapes: Any) -> Programs:
    """The programs for parameters of these shapes (or arrays); to be called, and used, under the run's mesh."""
    trained, _ = freeze.split(run.declarations, run.stage.trains)
    optimizer = build_optimizer(run.settings.optimizer, trained, run.mesh)

    def create(tree: Any) -> TrainState:
        return create_state(run.stage, optimizer, tree)

    abstract = jax.eval_shape(create, shapes)
    shardings = state_shardings(abstract, run.declarations, run.mesh, run.settings.run.offload_optimizer)
    step = make_train_step(run.model, run.stage, optimizer, run.settings, run.seed, run.fault)
    return Programs(
        jax.jit(create, donate_argnums=0, out_shardings=shardings),
        jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)),
        jax.jit(make_evaluation(run.model, run.stage, run.settings)),
        jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), abstract, shardings),
    )


class _Trainer:
    """The programs, the state and the open files of one call of `fit`."""

    def __init__(self, run: Run, initial: Start, data: StageData, reporter: Reporter, stop: StopSignals):
        self.run, self.data, self.reporter, self.stop = run, data, reporter, stop
        self.goodput = Goodput(run.directory, note=reporter.note)
        self.sharding = batch_sharding(run.mesh)
        self.programs = make_programs(run, initial.shapes)
        check_all_committed(run.directory / "checkpoints")
        self.store = CheckpointStore(run.directory / "checkpoints", KEEP, self._before_commit if run.fault else None)
        self.window: list[dict[str, Any]] = []
        self.seconds = 0.0
        if self.store.latest_step() is None:
            self.state = self._created(initial)
        else:
            model, accept = run.records.model, run.accept
            fresh = functools.partial(self._created, initial)
            self.state, _, progress = self.store.restore(self.programs.state, model, accept=accept, fresh=fresh)
            self.window, self.seconds = list(progress["window"]), progress["seconds"]
        self.start = self.number = self.saved = int(self.state.step)
        self.watch = SkipWatch(run.settings.run.stop_after_skipped)
        # The first process writes for all: opening the file drops what an interrupted run wrote past its checkpoint.
        first = jax.process_index() == 0
        path = run.directory / "metrics.jsonl"
        self.metrics = MetricsFile(path, self.start, reporter.note) if first else None
        self.board = TensorBoard(run.directory / "tensorboard", self.start) if first and run.tensorboard else None
        self.heldout: list[Any] = []
        self.profiling = False

    def _created(self, initial: Start) -> TrainState:
        """The state at step 0. What it is made from is let go at once."""
        return self.programs.create(initial.make())

    def train(self) -> TrainState:
        steps = self.run.settings.run.steps
        self.reporter.start(self.run.stage.name, self.start, steps)
        if self.start >= steps:
            return self.state
        self._wait_for_all("beginning")
        check_space(self.store.directory, self.programs.state, KEEP)
        self.clock = time.monotonic()
        self.goodput.write(self.start)
        self.goodput.turn_to("train")
        batches = self.data.train(self.start)
        if self.run.fault is not None:
            batches = self.run.fault.among(batches, self.start)
        name = f"wallwm_stop/{self.run.stage.name}/{self.start}"
        agreement = StopAgreement(self._asked_to_stop, message_board(), name, self.start, self.run.patience)
        with Prefetcher(batches, self.sharding) as prefetched, agreement:
            while not agreement.leaves(self.number) and self.number < steps:
                batch = self._next(prefetched)
                if batch is not None:
                    self._advance(batch)
        if self.saved < self.number:
            self._save()
        with self.goodput.spent_on("checkpoint"):
            self.store.wait()
        self.goodput.write(self.number)
        return self.state

    def close(self) -> None:
        self.reporter.stop()
        if self.profiling:
            jax.profiler.stop_trace()
        if self.board is not None:
            self.board.close()
        self.store.close()

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch; None if a signal that asked to stop has ended the workers that were to make it."""
        try:
            with self.goodput.spent_on("data"):
                return next(batches)
        except Exception:
            if self.stop.received and jax.process_count() == 1:
                return None
            raise

    def _asked_to_stop(self) -> bool:
        return self.stop.received is not None

    def _advance(self, batch: Any) -> None:
        """One step, and whatever is due after it."""
        settings, number = self.run.settings.run, self.number + 1
        if self.number == self.start:
            with self.goodput.spent_on("compile"):
                self._compile(batch)
        self._profile(number)
        self.state, metrics = self.programs.step(self.state, batch)
        self.number = number
        self._strike("step")
        self.window.append(metrics)
        self.reporter.advance(number)
        self.store.check()
        if self.watch.add(metrics):
            self._give_up(batch, metrics)
        last = number == settings.steps
        evaluate = last or number % settings.eval_every == 0
        if evaluate or number % settings.log_every == 0:
            self._report(number, evaluate, last)
        if last or number % settings.checkpoint_every == 0:
            self._save()

    def _compile(self, batch: Any) -> None:
        """Compiles what the loop calls, before there is anything that a signal could make it lose."""
        self._strike("compile")
        self.heldout = [to_mesh(batch, self.sharding) for batch in self.data.heldout]
        self.programs.step.lower(self.state, batch).compile()
        for heldout in self.heldout[:1]:
            self.programs.evaluation.lower(self.state.parameters, heldout, stream(self.run.seed)).compile()
        self._wait_for_all("first step")
        self.stop.leave_at_once = False

    def _wait_for_all(self, place: str) -> None:
        """Between processes' first exchanges by their devices and what takes each a while of its own: a backend waits
        for the others less long than a compilation can take (30 s on CPUs), and does not say for whom."""
        wait_for_all(f"the {place} of stage {self.run.stage.name}, from step {self.start}", self.run.patience)

    def _profile(self, number: int) -> None:
        """Begins a trace before the first step of it, and ends it before the first step after it."""
        chosen = self.run.settings.run.profile
        if chosen and not self.profiling and number == chosen[0]:
            jax.profiler.start_trace(self.run.directory / "profile")
            self.profiling = True
        elif self.profiling and number > chosen[1]:
            jax.block_until_ready(self.state)
            jax.profiler.stop_trace()
            self.profiling = False

    def _strike(self, phase: str) -> None:
        if self.run.fault is not None:
            self.run.fault.strike(phase, max(self.number, self.start + 1))

    def _before_commit(self, step: int, folder: pathlib.Path) -> None:
        self.run.fault.strike("save", step, folder / MANIFEST)

    def _give_up(self, batch: Any, metrics: dict[str, Any]) -> None:
        """Keeps the skipped step for inspection and raises RunError."""
        run, numbers = self.run, {name: float(value) for name, value in metrics.items()}
        try:
            look = f"`wallwm replay {keep_failed_step(run, self.state, batch, numbers)}` looks into it"
        except RunError as error:
            look = str(error)
        raise RunError(
            f"stage {run.stage.name}: {self.watch.limit} steps in a row were not finite, the last of them step "
            f"{self.number} (loss {numbers['loss']}, gradient norm {numbers['grad_norm']}, "
            f"update norm {numbers['update_norm']}); {look}"
        )

    def _report(self, number: int, evaluate: bool, last: bool) -> None:
        """One line: means over the steps since the last line, and the held-out loss if it is due.

        The held-out loss is that of the raw parameters, so that its early values say what has been learned rather
        than how long the average remembers; the last line adds the average's own ("heldout_loss_average").
        """
        window, events = jax.device_get(self.window), int(self.state.events)
        elapsed = self._elapsed()
        line = {"step": number, "stage": self.run.stage.name}
        rates = [name for name in window[0] if name.startswith("learning_rate")]  # one a group of the optimizer
        line |= {name: _mean(window, name) for name in window[0] if name not in (*rates, "tokens")}
        line |= {name: float(window[-1][name]) for name in rates}
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
        for file in (self.metrics, self.board):
            if file is not None:
                file.write(line)
        self.goodput.write(number)
        self.reporter.report(line)

    def _evaluate(self, parameters: Any) -> dict[str, float]:
        """Mean losses over the held-out batches, each with its own fixed noise and times."""
        keys = [stream(self.run.seed, "heldout", index) for index in range(len(self.heldout))]
        with self.goodput.spent_on("evaluate"):
            found = jax.device_get(
                [
                    self.programs.evaluation(parameters, batch, key)
                    for batch, key in zip(self.heldout, keys, strict=True)
                ]
            )
        return {name: _mean(found, name) for name in found[0]}

    def _save(self) -> None:
        self.window = [{name: float(value) for name, value in step.items()} for step in jax.device_get(self.window)]
        self.seconds += self._elapsed()
        with self.goodput.spent_on("checkpoint"):
            self.store.save(self.state, self.run.records, {"window": self.window, "seconds": self.seconds})
        self.saved = self.number
        self._elapsed()

    def _elapsed(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        elapsed, self.clock = now - self.clock, now
        return elapsed


def _mean(steps: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([float(step[name]) for step in steps]))
