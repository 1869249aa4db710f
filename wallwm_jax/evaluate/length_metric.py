"""The metric of lengths: the duration head beside the verb's median training length."""

from collections import defaultdict

from wallwm_jax.evaluate import figures, page
from wallwm_jax.evaluate.lengths import LengthResult, length_result
from wallwm_jax.evaluate.metric import Judged, Metric


def _compute(judged: Judged) -> LengthResult:
    steps: dict[str, list[int]] = defaultdict(list)
    for event in judged.training:
        steps[event.trajectory.verb].append(event.window.steps)
    return length_result(judged.result, steps)


def _section(result: LengthResult) -> str:
    explanation = (
        f"Before dreaming, the duration head says how long the event will last. Median error {result.median_error:.1f} "
        f"control steps (mean {result.mean_error:.1f}) over {result.events} events; always guessing the verb's median "
        f"length in training errs by {result.baseline_median_error:.1f} (mean {result.baseline_mean_error:.1f})."
    )
    return page.section("How long is an event?", explanation, page.figure(figures.lengths(result), "event lengths"))


LENGTH = Metric("length", _compute, section=_section)
