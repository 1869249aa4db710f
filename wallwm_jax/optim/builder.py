"""A stage's optimizer: one of the table below or a function of the user's, behind clipping by the global norm."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
import optax.contrib
from jax.sharding import AbstractMesh, Mesh

from wallwm_jax.core.axes import Declaration
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.trees import named_leaves, path_name
from wallwm_jax.optim.clipping import clip_by_global_norm
from wallwm_jax.optim.foreign import check_options, find, made_by
from wallwm_jax.optim.muon import MuonSettings
from wallwm_jax.optim.optimizer import muon, muon_table
from wallwm_jax.optim.polynomials import polynomials_of
from wallwm_jax.optim.schedules import Schedule, warmup_then

Make = Callable[["OptimizerSettings", Any, Mesh | AbstractMesh | None], optax.GradientTransformation]
"""From settings, declarations and the mesh that parameters lie on (None: one device) to the transformation of a whole
tree of trainable parameters."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """A run's optimizer: a name of `OPTIMIZERS`, or "module:function" ("optax:lion") for any function that takes a
    learning rate or schedule as its first argument and returns an Optax transformation (`optim.foreign`).

    `learning_rate` is the peak of what declared matrices get, of lion, and of such a function; `adamw_learning_rate` is
    AdamW's. `clip` bounds the global gradient norm; `weight_decay` reaches only parameters whose declaration decays,
    and no function of "module:function": that takes its other arguments from `optimizer_options`.
    """

    steps: int
    learning_rate: float = 2e-3
    adamw_learning_rate: float = 1e-3
    warmup_steps: int = 20
    schedule: str = "cosine"
    final_fraction: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0
    optimizer: str = "muon"
    optimizer_options: Mapping[str, Any] | None = None  # None, so that a locked config takes any keys
    adam_b1: float = 0.9
    adam_b2: float = 0.99
    adam_epsilon: float = 1e-8
    muon: MuonSettings = dataclasses.field(default_factory=MuonSettings)

    def __post_init__(self):
        if self.optimizer in OPTIMIZERS:
            if self.optimizer_options:
                expected = "an optimizer 'module:function'; those of the table have keys of their own"
                raise InputError("optimizer_options", dict(self.optimizer_options), expected)
        else:
            check_options(find(self.optimizer, sorted(OPTIMIZERS)), self.optimizer, self.optimizer_options or {})
        if self.clip <= 0:
            raise InputError("clip", self.clip, "a positive gradient norm")
        self.schedule_of(self.learning_rate)  # a schedule that cannot be made is refused here, before anything is read

    def schedule_of(self, peak: float) -> Schedule:
        """The run's schedule with this peak."""
        return warmup_then(self.schedule, peak, self.warmup_steps, self.steps, self.final_fraction)


def build_optimizer(
    settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None = None
) -> optax.GradientTransformation:
    """The transformation for a parameter tree with these declarations (the trainable part only), laid on `mesh`, whose
    devices share what costs much.

    Raises:
        InputError: what the settings name makes something else than an Optax transformation, or cannot be called.
    """
    name = settings.optimizer
    if name in OPTIMIZERS:
        made = OPTIMIZERS[name](settings, declarations, mesh)
    else:
        function, rate = find(name, sorted(OPTIMIZERS)), settings.schedule_of(settings.learning_rate)
        ours = {"declarations": declarations, "mesh": mesh, "settings": settings}
        made = made_by(function, name, rate, settings.optimizer_options or {}, ours)
    return optax.chain(clip_by_global_norm(settings.clip), made)


def learning_rates(settings: OptimizerSettings) -> dict[str, Schedule]:
    """The learning rate of every group of the optimizer that runs, by the name that a log gives it."""
    matrices, rest = (settings.schedule_of(peak) for peak in (settings.learning_rate, settings.adamw_learning_rate))
    if settings.optimizer in _MATRICES:
        return {"learning_rate": matrices, "learning_rate/adamw": rest}
    if settings.optimizer == "adamw":
        return {"learning_rate": rest}
    if settings.optimizer == "schedule_free":
        return {"learning_rate": _warm_up(settings)}
    return {"learning_rate": matrices}


def assignment_table(parameters: Any, declarations: Any, optimizer: str = "muon") -> list[dict[str, Any]]:
    """One row a parameter: name, shape, its count of numbers, axes, optimizer, decay. Shapes may be abstract."""
    rows = muon_table(parameters, declarations)
    if optimizer in _MATRICES:
        return [row | ({"optimizer": optimizer} if row["optimizer"] == "muon" else {}) for row in rows]
    decides = optimizer in OPTIMIZERS  # what a function of the user's decays is its own affair
    return [row | {"optimizer": optimizer, "decay": row["decay"] if decides else None} for row in rows]


def _whole(
    optimizer: str, make: Callable, settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None
) -> optax.GradientTransformation:
    """All parameters to one optimizer, with and without decay; it works number by number, so that any mesh suits it."""
    del mesh
    without = f"{optimizer}_without_decay"
    groups = {optimizer: make(settings, settings.weight_decay), without: make(settings, 0.0)}
    return optax.partition(groups, jax.tree.map(lambda rule: optimizer if rule.decay else without, declarations))


def _adamw(settings: OptimizerSettings, weight_decay: float) -> optax.GradientTransformation:
    moments = {"b1": settings.adam_b1, "b2": settings.adam_b2, "eps": settings.adam_epsilon}
    return optax.adamw(settings.schedule_of(settings.adamw_learning_rate), weight_decay=weight_decay, **moments)


def _schedule_free(settings: OptimizerSettings, weight_decay: float) -> optax.GradientTransformation:
    """AdamW without a schedule (Defazio et al. 2024) after the warm-up. Parameters are the points that gradients are
    taken at; where a run averages them, that average stands in for the method's own."""
    return optax.contrib.schedule_free_adamw(
        settings.adamw_learning_rate,
        settings.warmup_steps or None,
        b1=settings.adam_b1,
        b2=settings.adam_b2,
        eps=settings.adam_epsilon,
        weight_decay=weight_decay,
    )


def _lion(settings: OptimizerSettings, weight_decay: float) -> optax.GradientTransformation:
    rate = settings.schedule_of(settings.learning_rate)
    return optax.lion(rate, settings.adam_b1, settings.adam_b2, weight_decay=weight_decay)


def _warm_up(settings: OptimizerSettings) -> Schedule:
    """What Optax's schedule-free AdamW makes of its rate: from zero up to the peak, and the peak from then on."""
    if not settings.warmup_steps:
        return optax.constant_schedule(settings.adamw_learning_rate)
    return optax.warmup_constant_schedule(0.0, settings.adamw_learning_rate, settings.warmup_steps)


def _muon(
    settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None
) -> optax.GradientTransformation:
    return muon(
        settings.schedule_of(settings.learning_rate),
        declarations,
        settings.muon,
        weight_decay=settings.weight_decay,
        adamw_learning_rate=settings.schedule_of(settings.adamw_learning_rate),
        b1=settings.adam_b1,
        b2=settings.adam_b2,
        epsilon=settings.adam_epsilon,
        mesh=mesh,
    )


def _optax_muon(
    settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None
) -> optax.GradientTransformation:
    """`optax.contrib.muon` for declared matrices, told by the declarations which axes are inputs and outputs, and AdamW
    for the rest; it knows nothing of meshes."""
    del mesh
    rules, chosen = named_leaves(declarations), settings.muon
    polynomials = tuple(polynomials_of(chosen.coefficients, chosen.steps))

    def numbers(parameters: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _dimensions(rules[path_name(path)]), parameters)

    theirs = optax.contrib.muon(
        settings.schedule_of(settings.learning_rate),
        polynomials,
        len(polynomials),
        chosen.momentum,
        weight_decay=settings.weight_decay,
        nesterov=chosen.nesterov,
        muon_weight_dimension_numbers=numbers,
        consistent_rms=chosen.consistent_rms if chosen.update_scale == "rms" else None,
    )
    groups = {
        "optax_muon": theirs,
        "adamw": _adamw(settings, settings.weight_decay),
        "adamw_without_decay": _adamw(settings, 0.0),
    }
    return optax.partition(groups, jax.tree.map(_group_of, declarations))


def _group_of(rule: Declaration) -> str:
    if rule.optimizer == "muon":
        return "optax_muon"
    return "adamw" if rule.decay else "adamw_without_decay"


def _dimensions(rule: Declaration) -> optax.contrib.MuonDimensionNumbers:
    _, inputs, outputs = rule.matrix_order()
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)


_MATRICES: Mapping[str, Make] = {"muon": _muon, "optax_muon": _optax_muon}
OPTIMIZERS: Mapping[str, Make] = {
    **_MATRICES,
    "adamw": functools.partial(_whole, "adamw", _adamw),
    "lion": functools.partial(_whole, "lion", _lion),
    "schedule_free": functools.partial(_whole, "schedule_free", _schedule_free),
}
"""What a config can name: Muon (ours, or Optax's) for declared matrices with AdamW for the rest, or one for all."""
