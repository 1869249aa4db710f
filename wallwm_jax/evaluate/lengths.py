"""How well the duration head knows how long an event will last."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from wallwm_jax.evaluate.open_loop import OpenLoop


@dataclasses.dataclass(frozen=True)
class LengthResult:
    """The duration head's error in control steps, beside always guessing the verb's median training length."""

    events: int
    median_error: float
    mean_error: float
    baseline_median_error: float
    baseline_mean_error: float
    predicted: Sequence[float]
    true: Sequence[int]


def length_result(result: OpenLoop, training_steps: Mapping[str, Sequence[int]]) -> LengthResult:
    """The duration head against true lengths, beside the median training length of the verb."""
    true = np.array([event.window.steps for event in result.events])
    everything = [steps for values in training_steps.values() for steps in values]
    guess = np.array([np.median(training_steps.get(event.trajectory.verb, everything)) for event in result.events])
    ours, baseline = np.abs(result.durations - true), np.abs(guess - true)
    return LengthResult(
        events=len(true),
        median_error=float(np.median(ours)),
        mean_error=float(ours.mean()),
        baseline_median_error=float(np.median(baseline)),
        baseline_mean_error=float(baseline.mean()),
        predicted=result.durations.tolist(),
        true=true.tolist(),
    )
