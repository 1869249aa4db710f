"""What one run of one stage consists of."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.sharding import AbstractMesh, Mesh

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
class Run:
    """One stage on one model. `directory` receives checkpoints/ and metrics.jsonl (and tensorboard/ if asked for).

    `accept` names what may differ from the checkpoint that the run goes on with (`resumption.CHANGES`); `fault` is one
    on purpose."""

    stage: Stage
    model: Any
    declarations: Any
    settings: StageSettings
    mesh: Mesh | AbstractMesh
    seed: int
    records: Records
    directory: pathlib.Path
    tensorboard: bool = False
    accept: frozenset[str] = frozenset()
    fault: Fault | None = None
