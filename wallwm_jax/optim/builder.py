"""A stage's optimizer: parameters partitioned by their declarations, global clipping, one schedule a group."""

import dataclasses
from typing import Any

import jax
import optax

from wallwm_jax.core.axes import Declaration
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.optim.muon import MuonSettings, muon
from wallwm_jax.optim.schedules import Schedule, warmup_then

OPTIMIZERS = ("muon", "adamw")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """A run's optimizer. `optimizer` "muon" gives declared matrices to Muon and the rest to AdamW; "adamw" gives
    everything to AdamW. `learning_rate` is Muon's peak, `adamw_learning_rate` AdamW's; `clip` bounds the global
    gradient norm; weight decay reaches only parameters whose declaration decays."""

    steps: int
    learning_rate: float = 2e-3
    adamw_learning_rate: float = 1e-3
    warmup_steps: int = 20
    schedule: str = "cosine"
    final_fraction: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0
    optimizer: str = "muon"
    adam_b1: float = 0.9
    adam_b2: float = 0.99
    adam_epsilon: float = 1e-8
    muon: MuonSettings = dataclasses.field(default_factory=MuonSettings)

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise InputError("optimizer", repr(self.optimizer), f"one of {OPTIMIZERS}")
        if self.clip <= 0:
            raise InputError("clip", self.clip, "a positive gradient norm")
        self.schedule_of(self.learning_rate)  # a schedule that cannot be made is refused here, before anything is read

    def schedule_of(self, peak: float) -> Schedule:
        """The run's schedule with this peak."""
        return warmup_then(self.schedule, peak, self.warmup_steps, self.steps, self.final_fraction)


def build_optimizer(settings: OptimizerSettings, declarations: Any) -> optax.GradientTransformation:
    """The transformation for a parameter tree with these declarations (the trainable part only)."""
    labels = jax.tree.map(lambda declaration: _group(declaration, settings), declarations)
    adamw_rate = settings.schedule_of(settings.adamw_learning_rate)

    def adamw(weight_decay: float) -> optax.GradientTransformation:
        moments = {"b1": settings.adam_b1, "b2": settings.adam_b2, "eps": settings.adam_epsilon}
        return optax.adamw(adamw_rate, weight_decay=weight_decay, **moments)

    groups = {
        "muon": muon(settings.schedule_of(settings.learning_rate), declarations, settings.muon, settings.weight_decay),
        "adamw": adamw(settings.weight_decay),
        "adamw_without_decay": adamw(0.0),
    }
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.partition(groups, labels))


def assignment_table(parameters: Any, declarations: Any, optimizer: str = "muon") -> list[dict[str, Any]]:
    """One row a parameter: name, shape, axes, optimizer ("muon" | "adamw"), decay. Shapes may be abstract."""
    settings = OptimizerSettings(steps=1, warmup_steps=0, optimizer=optimizer)
    rules, rows = named_leaves(declarations), []
    for name, leaf in named_leaves(parameters).items():
        if name not in rules:
            raise InputError(f"parameter {name}", "no declaration", "one string in the module that makes it")
        group = _group(rules[name], settings)
        row = {"name": name, "shape": tuple(leaf.shape), "axes": rules[name].text}
        rows.append({**row, "optimizer": group.removesuffix("_without_decay"), "decay": rules[name].decay})
    return rows


def _group(declaration: Declaration, settings: OptimizerSettings) -> str:
    if declaration.optimizer == "muon" and settings.optimizer == "muon":
        return "muon"
    return "adamw" if declaration.decay else "adamw_without_decay"
