"""What a metric is: computed from held-out predictions, shown in the report, kept in metrics.json."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.evaluate.events import RecordedEvent
from wallwm_jax.evaluate.open_loop import OpenLoop
from wallwm_jax.evaluate.settings import EvaluationSettings
from wallwm_jax.evaluate.verb_results import VerbResult
from wallwm_jax.evaluate.video_quality import EventFrames

Tile = tuple[str, str]
"""A large number at the top of the report, and a line of meaning."""


class Judged(NamedTuple):
    """What metrics are computed from: held-out events with their predictions, and the training events beside them."""

    result: OpenLoop
    verbs: Sequence[VerbResult]
    """The errors by verb, in the order of the report."""
    frames: Sequence[EventFrames]
    """Of the events that were dreamt to the end."""
    training: Sequence[RecordedEvent]
    curated: CuratedDataset
    settings: EvaluationSettings


def _under_detail(name: str, value: Any) -> dict[str, Any]:
    """`detail.<name>` of metrics.json."""
    return {"detail": {name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value}}


def _no_section(value: Any) -> str:
    return ""


def _no_tiles(value: Any) -> Sequence[Tile]:
    return ()


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric. A metric without a result has the value None: it is null in metrics.json and absent from the report.

    Attributes:
      name: unique; its place under `detail` in metrics.json, unless `plain` says otherwise.
      compute: `compute(judged)` gives its value, or None.
      section: `section(value)` gives its part of the report as HTML (`page.section`).
      tiles: `tiles(value)` gives large numbers for the top of the report.
      plain: `plain(name, value)`, also called with None, gives the keys that are added to metrics.json.
    """

    name: str
    compute: Callable[[Judged], Any]
    section: Callable[[Any], str] = _no_section
    tiles: Callable[[Any], Sequence[Tile]] = _no_tiles
    plain: Callable[[str, Any], Mapping[str, Any]] = _under_detail


class Measured(NamedTuple):
    """A metric and what it found."""

    metric: Metric
    value: Any

    def section(self) -> str:
        """HTML; empty without a value."""
        return "" if self.value is None else self.metric.section(self.value)

    def tiles(self) -> Sequence[Tile]:
        """None without a value."""
        return () if self.value is None else self.metric.tiles(self.value)

    def plain(self) -> Mapping[str, Any]:
        """What is added to metrics.json."""
        return self.metric.plain(self.metric.name, self.value)


def check_names(metrics: Sequence[Metric]) -> None:
    """Raises InputError if two metrics have one name."""
    names = [metric.name for metric in metrics]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError("metrics", f"two with the name {name!r}", "a name for each")


def measure(metrics: Sequence[Metric], judged: Judged) -> tuple[Measured, ...]:
    """What every metric finds."""
    return tuple(Measured(metric, metric.compute(judged)) for metric in metrics)
