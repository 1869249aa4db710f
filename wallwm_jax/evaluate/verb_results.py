"""Errors of predicted trajectories by verb, beside the baselines'."""

import dataclasses
from collections.abc import Mapping, Sequence

from wallwm_jax.evaluate.baselines import SceneDependence
from wallwm_jax.evaluate.errors import MILLIMETRES, ErrorSummary, summarise, unit_of
from wallwm_jax.evaluate.events import by_verb
from wallwm_jax.evaluate.open_loop import OpenLoop


@dataclasses.dataclass(frozen=True)
class ObjectResult:
    """One verb's errors on the events of one object."""

    events: int
    ours: ErrorSummary
    mean: ErrorSummary | None


@dataclasses.dataclass(frozen=True)
class VerbResult:
    """One verb on held-out events. `mean` is None if training never saw the verb."""

    verb: str
    unit: str
    events: int
    truncated: int
    """Events longer than the longest bucket; judged over the steps that fit."""
    scene_dependent: bool
    ours: ErrorSummary
    hold: ErrorSummary
    mean: ErrorSummary | None
    objects: Mapping[str, ObjectResult]
    """The same, object by object."""


def verb_results(result: OpenLoop, dependence: Mapping[str, SceneDependence]) -> list[VerbResult]:
    """One result a verb, scene-dependent verbs first, then the others in order of hold-still's error."""
    rows = []
    for verb, places in by_verb(result.events).items():
        errors = [result.errors[place] for place in places]
        known = verb in dependence
        rows.append(
            VerbResult(
                verb=verb,
                unit=unit_of(verb),
                events=len(places),
                truncated=sum(result.events[place].window.truncated for place in places),
                scene_dependent=known and dependence[verb].scene_dependent,
                ours=summarise([error["ours"] for error in errors]),
                hold=summarise([error["hold"] for error in errors]),
                mean=summarise([error["mean"] for error in errors]) if known else None,
                objects=_object_results(result, places, known),
            )
        )
    return sorted(rows, key=lambda row: (row.unit != MILLIMETRES, not row.scene_dependent, -row.hold.end_median))


def _object_results(result: OpenLoop, places: Sequence[int], known: bool) -> dict[str, ObjectResult]:
    rows = {}
    for name in sorted({result.events[place].trajectory.object for place in places}):
        errors = [result.errors[place] for place in places if result.events[place].trajectory.object == name]
        mean = summarise([error["mean"] for error in errors]) if known else None
        rows[name] = ObjectResult(len(errors), summarise([error["ours"] for error in errors]), mean)
    return rows
