"""The metric of actions: errors by verb, beside holding still and the mean trajectory."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from wallwm_jax.evaluate import figures, page
from wallwm_jax.evaluate.baselines import SCENE_RULE
from wallwm_jax.evaluate.errors import MILLIMETRES, ErrorSummary
from wallwm_jax.evaluate.metric import Judged, Metric, Tile
from wallwm_jax.evaluate.verb_results import VerbResult


def _compute(judged: Judged) -> Sequence[VerbResult]:
    return judged.verbs


def _plain(name: str, verbs: Sequence[VerbResult]) -> dict[str, Any]:
    """Headline numbers are medians over held-out events of the error at the event's end; `detail` holds the rest."""
    return {
        "verbs": {result.verb: _headline(result) for result in verbs},
        "detail": {
            "verbs": {result.verb: dataclasses.asdict(result) for result in verbs},
            "scene_rule": SCENE_RULE,
        },
    }


def _headline(result: VerbResult) -> dict[str, Any]:
    return {
        "ours": result.ours.end_median,
        "hold": result.hold.end_median,
        "mean": result.mean.end_median if result.mean else None,
        "unit": result.unit,
        "scene_dependent": result.scene_dependent,
        "events": result.events,
    }


def _tiles(verbs: Sequence[VerbResult]) -> list[Tile]:
    tiles = []
    if verbs:
        better = sum(result.ours.end_median < result.hold.end_median for result in verbs)
        tiles.append((f"{better} of {len(verbs)}", "verbs with a smaller action error than holding still"))
    scene = [result for result in verbs if result.scene_dependent and result.mean]
    if scene:
        better = sum(result.ours.end_median < result.mean.end_median for result in scene)
        tiles.append((f"{better} of {len(scene)}", "scene-dependent verbs with less error than the mean trajectory"))
    reach = next((result for result in verbs if result.verb == "reach"), None)
    if reach:
        tiles.append((f"{reach.ours.end_median:.0f} mm", f"median end error of reach ({_versus(reach)})"))
    return tiles


def _versus(result: VerbResult) -> str:
    mean = f"mean trajectory {result.mean.end_median:.0f}, " if result.mean else ""
    return f"{mean}hold still {result.hold.end_median:.0f}"


def _section(verbs: Sequence[VerbResult]) -> str:
    if not verbs:
        return ""
    explanation = (
        "Error of the predicted trajectory against the recorded one. Moving verbs: distance of the end-effector in "
        "millimetres. Grasp and release: difference of the gripper's opening (0 closed, 1 open). <b>Hold still</b> "
        "keeps the anchor pose; <b>mean trajectory</b> replays the average motion of the same verb and object in "
        "training, stretched to the event's length, without looking. Predictions here are given the event's true "
        f"length. A star marks verbs that depend on the scene: {page.escape(SCENE_RULE)}."
    )
    measures = [f"{name}, {place}" for place in ("end", "along") for name in ("ours", "mean", "hold")]
    head = ["verb", "unit", "events", *measures]
    rows = [_verb_row(result) for result in verbs]
    note = "<p>Medians over events (means in brackets); <i>end</i>: last step, <i>along</i>: mean over steps.</p>"
    scene = ", ".join(page.escape(result.verb) for result in verbs if result.scene_dependent) or "none"
    other = ", ".join(page.escape(result.verb) for result in verbs if not result.scene_dependent) or "none"
    note += f"<p>Depend on the scene: <b>{scene}</b>. Do not: {other}.</p>"
    note += "".join(_by_object(result) for result in verbs if result.scene_dependent)
    bars = page.figure(figures.verb_errors(verbs), "median end error by verb")
    return page.section("Does it act?", explanation, bars, page.table(head, rows), note)


def _verb_row(result: VerbResult) -> list[str]:
    digits = 1 if result.unit == MILLIMETRES else 3
    cells = []
    for measure in ("end", "along"):
        summaries = (result.ours, result.mean, result.hold)
        medians = [getattr(summary, f"{measure}_median") if summary else float("inf") for summary in summaries]
        for summary, median in zip(summaries, medians, strict=True):
            mark = "*" if median == min(medians) else ""
            cells.append(mark + _median_mean(summary, measure, digits))
    events = f"{result.events}" + (f" ({result.truncated} cut)" if result.truncated else "")
    return [page.escape(result.verb) + ("*" if result.scene_dependent else ""), result.unit, events, *cells]


def _by_object(result: VerbResult) -> str:
    """One line: a verb's median end error by object; nothing if there is one object only."""
    if len(result.objects) < 2:
        return ""
    digits = 1 if result.unit == MILLIMETRES else 3
    parts = []
    for name, row in result.objects.items():
        against = f", mean trajectory {page.number(row.mean.end_median, digits)}" if row.mean else ""
        parts.append(f"{page.escape(name)} {page.number(row.ours.end_median, digits)} ({row.events} events{against})")
    return f"<p>{page.escape(result.verb)}, median end error in {result.unit}: {'; '.join(parts)}.</p>"


def _median_mean(summary: ErrorSummary | None, measure: str, digits: int) -> str:
    if summary is None:
        return "–"
    median, mean = (getattr(summary, f"{measure}_{kind}") for kind in ("median", "mean"))
    return f"{median:.{digits}f} ({mean:.{digits}f})"


VERBS = Metric("verbs", _compute, section=_section, tiles=_tiles, plain=_plain)
