"""A stage's optimizer: parameters partitioned by their declarations, global clipping, one schedule a group."""

import dataclasses
import functools
import importlib
import math
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
from wallwm_jax.optim.muon import MuonSettings, muon
from wallwm_jax.optim.polynomials import polynomials_of
from wallwm_jax.optim.schedules import Schedule, warmup_then

Make = Callable[["OptimizerSettings", Any, Mesh | AbstractMesh | None], optax.GradientTransformation]
"""From settings, declarations and the mesh that parameters lie on (None: one device) to the transformation of a whole
tree of trainable parameters."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """A run's optimizer: a name of `OPTIMIZERS`, or "module:function" for a `Make` of one's own.

    `learning_rate` is the peak of what declared matrices get, and of lion; `adamw_learning_rate` is AdamW's. `clip`
    bounds the global gradient norm; weight decay reaches only parameters whose declaration decays.
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
    adam_b1: float = 0.9
    adam_b2: float = 0.99
    adam_epsilon: float = 1e-8
    muon: MuonSettings = dataclasses.field(default_factory=MuonSettings)

    def __post_init__(self):
        _find(self.optimizer)
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
        InputError: what the settings name makes something else than an Optax transformation.
    """
    made = _find(settings.optimizer)(settings, declarations, mesh)
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise InputError(f"optimizer {settings.optimizer}", type(made).__name__, "an optax.GradientTransformation")
    return optax.chain(clip_by_global_norm(settings.clip), made)


def assignment_table(parameters: Any, declarations: Any, optimizer: str = "muon") -> list[dict[str, Any]]:
    """One row a parameter: name, shape, its count of numbers, axes, optimizer, decay. Shapes may be abstract."""
    rules, rows = named_leaves(declarations), []
    for name, leaf in named_leaves(parameters).items():
        if name not in rules:
            raise InputError(f"parameter {name}", "no declaration", "one string in the module that makes it")
        rule = rules[name]
        row = {"name": name, "shape": tuple(leaf.shape), "numbers": math.prod(leaf.shape), "axes": rule.text}
        rows.append({**row, "optimizer": _label(rule, optimizer).removesuffix("_without_decay"), "decay": rule.decay})
    return rows


def _label(declaration: Declaration, optimizer: str) -> str:
    """What a parameter is given to."""
    if declaration.optimizer == "muon" and optimizer in _MATRICES:
        return optimizer
    rest = "adamw" if optimizer in _MATRICES else optimizer
    return rest if declaration.decay else f"{rest}_without_decay"


def _matrices_and_rest(
    optimizer: str, settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None
) -> optax.GradientTransformation:
    """Declared matrices to `_MATRICES[optimizer]`, the rest to AdamW."""
    groups = {
        optimizer: _MATRICES[optimizer](settings, declarations, mesh),
        "adamw": _adamw(settings, settings.weight_decay),
        "adamw_without_decay": _adamw(settings, 0.0),
    }
    return optax.partition(groups, jax.tree.map(lambda rule: _label(rule, optimizer), declarations))


def _whole(
    optimizer: str, make: Callable, settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None
) -> optax.GradientTransformation:
    """All parameters to one optimizer, with and without decay; it works number by number, so that any mesh suits it."""
    del mesh
    groups = {optimizer: make(settings, settings.weight_decay), f"{optimizer}_without_decay": make(settings, 0.0)}
    return optax.partition(groups, jax.tree.map(lambda rule: _label(rule, optimizer), declarations))


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


def _muon(
    settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None
) -> optax.GradientTransformation:
    rate = settings.schedule_of(settings.learning_rate)
    return muon(rate, declarations, settings.muon, settings.weight_decay, mesh)


def _optax_muon(
    settings: OptimizerSettings, declarations: Any, mesh: Mesh | AbstractMesh | None
) -> optax.GradientTransformation:
    """`optax.contrib.muon`, told which axes are inputs and outputs by the declarations; it knows nothing of meshes."""
    del mesh
    rules, chosen = named_leaves(declarations), settings.muon
    polynomials = tuple(polynomials_of(chosen.coefficients, chosen.steps))

    def numbers(parameters: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _dimensions(rules[path_name(path)]), parameters)

    return optax.contrib.muon(
        settings.schedule_of(settings.learning_rate),
        polynomials,
        len(polynomials),
        chosen.momentum,
        weight_decay=settings.weight_decay,
        nesterov=chosen.nesterov,
        muon_weight_dimension_numbers=numbers,
        consistent_rms=chosen.consistent_rms if chosen.update_scale == "rms" else None,
    )


def _dimensions(rule: Declaration) -> optax.contrib.MuonDimensionNumbers:
    _, inputs, outputs = rule.matrix_order()
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)


_MATRICES: Mapping[str, Make] = {"muon": _muon, "optax_muon": _optax_muon}
OPTIMIZERS: Mapping[str, Make] = {
    **{name: functools.partial(_matrices_and_rest, name) for name in _MATRICES},
    "adamw": functools.partial(_whole, "adamw", _adamw),
    "lion": functools.partial(_whole, "lion", _lion),
    "schedule_free": functools.partial(_whole, "schedule_free", _schedule_free),
}
"""What a config can name: Muon (ours, or Optax's) for declared matrices with AdamW for the rest, or one for all."""


def _find(name: str) -> Make:
    """The optimizer of that name; raises InputError if there is none."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    module, colon, function = name.partition(":")
    expected = f"one of {sorted(OPTIMIZERS)}, or 'module:function'"
    if not colon:
        raise InputError("optimizer", repr(name), expected)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError("optimizer", f"{name!r} ({error})", expected) from error
