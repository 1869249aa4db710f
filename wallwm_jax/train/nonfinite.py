"""Steps that are not finite: counted without waiting for the device, kept for inspection, and looked into again.

The step itself skips what is not finite (`step.make_train_step`). A skipped step leaves parameters, average and moments
as they were, so the state after it is, but for its counters, the state before it.
"""

import math
import pathlib
import shutil
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.model import Model
from wallwm_jax.core.trees import named_leaves, path_name
from wallwm_jax.optim import freeze
from wallwm_jax.optim.clipping import global_norm
from wallwm_jax.train.checkpoint import CheckpointStore, Records, nested, read_arrays
from wallwm_jax.train.faults import Fault
from wallwm_jax.train.run import Run
from wallwm_jax.train.settings import StageSettings
from wallwm_jax.train.stages import Stage
from wallwm_jax.train.state import TrainState
from wallwm_jax.train.step import make_gradients

FOLDER = "not_finite"
DECISIVE = ("loss", "grad_norm", "update_norm")
"""The metrics of a step that is skipped if one of them is not finite."""
LAG = 4
"""Steps that may be under way on the device before the host looks at the oldest of them."""


class SkipWatch:
    """Counts skipped steps in a row from every step's metrics.

    It looks at a step's numbers some steps later, when they have long been there; from the first skipped step on at
    once, so that the `limit`-th in a row is always noticed before the next step begins.
    """

    def __init__(self, limit: int):
        self.limit, self.in_a_row = limit, 0
        self._lag = min(LAG, limit - 1)
        self._recent: deque[tuple[Any, ...]] = deque()

    def add(self, metrics: Mapping[str, Any]) -> bool:
        """Takes the next step's metrics; True if it is the `limit`-th in a row that was skipped."""
        numbers = tuple(metrics[name] for name in DECISIVE)
        for number in numbers:
            number.copy_to_host_async()
        self._recent.append(numbers)
        while self._recent and (self.in_a_row or len(self._recent) > self._lag):
            finite = all(math.isfinite(float(number)) for number in self._recent.popleft())
            self.in_a_row = 0 if finite else self.in_a_row + 1
        return self.in_a_row >= self.limit


class FailedStep(NamedTuple):
    """What a step is a function of, besides the config. `step` is that of the state: the number of steps before it."""

    step: Int[Array, ""]
    state: TrainState
    batch: Any


class KeptStep(NamedTuple):
    """A `FailedStep` read again: nested dicts in place of its types, and the optimizer's state by name. `numbers` are
    the losses and the norms of gradient and update that the run had seen."""

    step: int
    parameters: Any
    optimizer_state: dict[str, Any]
    batch: Any
    records: Records
    stage: str
    fault: Fault | None
    numbers: dict[str, float]


class Findings(NamedTuple):
    """A step done again: its losses and norms, names of gradients, updates, parameters and fields of the batch that are
    not finite, and the largest finite gradient, (name, size)."""

    numbers: dict[str, float]
    gradients: list[str]
    updates: list[str]
    parameters: list[str]
    batch: list[str]
    largest: tuple[str, float]


def keep_failed_step(run: Run, state: TrainState, batch: Any, numbers: Mapping[str, float]) -> pathlib.Path:
    """Saves the step that led to `state` and was skipped, with the losses and the norm that it had; returns where.

    `state.events` stays the number after the step; it decides nothing. Raises RunError if the save fails.
    """
    before = state._replace(step=state.step - 1, skipped=state.skipped - 1)
    path = run.directory / FOLDER / str(int(before.step))
    if jax.process_index() == 0:
        shutil.rmtree(path, ignore_errors=True)  # the same step, of an earlier try
    fault = None if run.fault is None else str(run.fault)
    store = CheckpointStore(path.parent, keep=1)
    progress = {"stage": run.stage.name, "fault": fault, "numbers": dict(numbers)}
    store.save(FailedStep(before.step, before, batch), run.records, progress)
    store.close()
    return path


def read_failed_step(path: str | pathlib.Path) -> KeptStep:
    """What `keep_failed_step` saved in `path`; raises InputError if it is no such folder or damaged."""
    path = pathlib.Path(path).absolute()
    if not path.name.isdecimal():
        raise InputError(f"step {path}", "no number of a step", f"a folder .../{FOLDER}/STEP")
    step, arrays, records, progress = read_arrays(path.parent, int(path.name))
    if "fault" not in progress:
        raise InputError(f"step {path}", "a checkpoint", "a step that was kept because it was not finite")
    tree, fault = nested(arrays), progress["fault"] and Fault.parse(progress["fault"])
    prefix = "state/optimizer_state/"
    moments = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    parts = tree["state"]["parameters"], moments, tree["batch"]
    return KeptStep(step, *parts, records, progress["stage"], fault, progress["numbers"])


def examine(
    model: Model,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    settings: StageSettings,
    seed: int,
    kept: KeptStep,
    make_batch: Any,
) -> Findings:
    """Does a kept step again, its fault on purpose included; `make_batch(**fields)` is the type of its batch."""
    gradients_of = make_gradients(model, stage, settings, seed)

    @jax.jit
    def again(parameters: Any, batch: Any) -> tuple[dict[str, Array], Any, Any]:
        (loss, metrics), gradients = gradients_of(parameters, batch, jnp.asarray(kept.step))
        if kept.fault is not None:
            gradients = kept.fault.corrupt(gradients, jnp.asarray(kept.step + 1))
        trained, _ = freeze.split(parameters, stage.trains)
        state = jax.tree_util.tree_map_with_path(
            lambda path, _: jnp.asarray(kept.optimizer_state[path_name(path)]), jax.eval_shape(optimizer.init, trained)
        )
        updates, _ = optimizer.update(gradients, state, trained)
        numbers = {name: value for name, value in metrics.items() if name.endswith("loss")}
        numbers |= {"loss": loss, "grad_norm": global_norm(gradients), "update_norm": global_norm(updates)}
        return numbers, *(_sizes(tree) for tree in (gradients, updates))

    numbers, *sizes = jax.device_get(again(kept.parameters, make_batch(**kept.batch)))
    sizes, moved = ({name: float(size) for name, size in named_leaves(tree).items()} for tree in sizes)
    finite = {name: size for name, size in sizes.items() if math.isfinite(size)}
    return Findings(
        {name: float(value) for name, value in numbers.items()},
        sorted(set(sizes) - set(finite)),
        sorted(name for name, size in moved.items() if not math.isfinite(size)),
        _not_finite(kept.parameters),
        _not_finite(kept.batch),
        max(finite.items(), key=lambda item: item[1], default=("none", 0.0)),
    )


def _sizes(tree: Any) -> Any:
    """The largest number of every leaf."""
    return jax.tree.map(lambda leaf: jnp.max(jnp.abs(leaf), initial=0.0), tree)


def _not_finite(tree: Any) -> list[str]:
    """Names of the arrays of numbers that are not all finite."""
    named = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    return [
        name for name, leaf in named.items() if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all()
    ]
