"""`wallwm replay`: what was not finite in a step that a run kept."""

import json
import math
from collections.abc import Mapping

from wallwm_jax.core.config import from_json
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.train.families import FAMILIES, Families, family_of, stage_of
from wallwm_jax.train.nonfinite import DECISIVE, Findings, KeptStep, examine, read_failed_step
from wallwm_jax.train.settings import configured_stage
from wallwm_jax.train.stages import without_absent

SHOWN = 10
"""Names of a kind that are printed."""


def replay(path: str, families: Families = FAMILIES) -> int:
    """Does the step kept in `path` again and prints what is not finite in it; 1 if this time all is finite, else 0."""
    kept = read_failed_step(path)
    config = from_json(json.dumps(kept.records.config))
    stage, settings = configured_stage(stage_of(kept.stage, families), config.stages[kept.stage])
    family, stage = family_of(stage, families), without_absent(stage, kept.parameters)
    model = family.rebuild(config, kept.records.model)
    _, declarations = family.shapes(model, stage.batches.type(**kept.batch))
    optimizer = build_optimizer(settings.optimizer, freeze.split(declarations, stage.trains)[0])
    found = examine(model, stage, optimizer, settings, config.seed, kept, stage.batches.type)
    print(*_lines(kept, found), sep="\n")
    return int(_finite(found.numbers))


def _lines(kept: KeptStep, found: Findings) -> list[str]:
    """What a person reads."""
    on_purpose = "" if kept.fault is None else f", with the fault {kept.fault} on purpose"
    lines = [f"stage {kept.stage}, step {kept.step + 1}{on_purpose}"]
    lines += [f"{name}: {value:.6g} (then {kept.numbers[name]:.6g})" for name, value in sorted(found.numbers.items())]
    for kind in ("batch", "parameters", "gradients", "updates"):
        names = getattr(found, kind)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"{kind} that are not finite: {', '.join(names[:SHOWN]) or 'none'}{more}")
    if not found.gradients and not math.isfinite(found.numbers["grad_norm"]):
        lines.append(
            "every gradient is finite, and their norm overflows: the largest is {} with {:.6g}".format(*found.largest)
        )
    same = _finite(found.numbers) == _finite(kept.numbers)
    return [*lines, "the same again" if same else "not the same again: this time all is finite"]


def _finite(numbers: Mapping[str, float]) -> bool:
    """Whether a step with these numbers would count; as training decides it."""
    return all(math.isfinite(numbers[name]) for name in DECISIVE)
