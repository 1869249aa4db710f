"""What one run of one stage consists of."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from wallwm_jax.core.model import Model
from wallwm_jax.core.processes import PATIENCE
from wallwm_jax.core.types import TrainingBatch
from wallwm_jax.train.checkpoint import Records
from wallwm_jax.train.faults import Fault
from wallwm_jax.train.settings import StageSettings
from wallwm_jax.train.stages import Stage


@dataclasses.dataclass(frozen=True)
class StageData:
    """`train(step)` gives the batches from that step on (this process's rows); `heldout` is fixed."""

    train: Callable[[int], Iterable[TrainingBatch]]
    heldout: Sequence[TrainingBatch]


@dataclasses.dataclass(frozen=True)
class Start:
    """The parameters that a run begins with: their shapes, and `make()`, which gives them, on the run's mesh or in the
    memory of every process. A run that goes on with a checkpoint does not call it."""

    shapes: Any
    make: Callable[[], Any]

    @classmethod
    def given(cls, parameters: Any) -> "Start":
        """From arrays that are there: the same in every process."""
        parameters = jax.device_get(parameters)
        return cls(jax.tree.map(_shape_of, parameters), lambda: parameters)


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


@dataclasses.dataclass(frozen=True)
class Run:
    """One stage on one model. `directory` receives checkpoints/ and metrics.jsonl (and tensorboard/ if asked for).

    `accept` names what may differ from the checkpoint that the run goes on with (`resumption.CHANGES`); `fault` is one
    on purpose. Several processes wait `patience` seconds for each other before the first step."""

    stage: Stage
    model: Model
    declarations: Any
    settings: StageSettings
    mesh: Mesh | AbstractMesh
    seed: int
    records: Records
    directory: pathlib.Path
    tensorboard: bool = False
    accept: frozenset[str] = frozenset()
    fault: Fault | None = None
    patience: float = PATIENCE
