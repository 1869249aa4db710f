"""What the vision-language side knows, on episodes that training never saw: the next event, the time that remains, and
whether the Staircase's latents can be put into words."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from wallwm_jax.core.model import Model
from wallwm_jax.core.types import Observation
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.planning import Moment, Plan, PlanSettings, PlanWriter, episode_plans
from wallwm_jax.infer.reasoning import Reasoning
from wallwm_jax.infer.request import Request
from wallwm_jax.objectives import reasoning as objectives

FRACTIONS = (0.0, 0.25, 0.5, 0.75)
"""How far into their events the moments are at which the remaining time is asked for."""

Kind = tuple[str, str]
"""Verb and object."""


@dataclasses.dataclass(frozen=True)
class NextEventResult:
    """Shares of events whose verb and object were foretold exactly at their first frame."""

    events: int
    accuracy: float
    majority: float
    """Always the most frequent kind of event."""
    bigram: float
    """The kind that most often follows the one before."""
    by_verb: Mapping[str, tuple[int, int]]
    """(right, asked) of each verb."""
    unknown: int
    """Captions that training never had; they count as wrong."""


@dataclasses.dataclass(frozen=True)
class TimeResult:
    """Mean absolute errors of the remaining time, as shares of the mean event length, and that length in steps."""

    moments: int
    length: float
    error: float
    verb: float
    """Half the verb's mean training length, whatever is seen."""


@dataclasses.dataclass(frozen=True)
class LanguageResult:
    """Everything that a split tells of the vision-language side. `traces` are token accuracies by schedule."""

    split: str
    following: NextEventResult
    time: TimeResult
    traces: Mapping[str, float]


def evaluate_language(
    reasoning: Reasoning,
    model: Model,
    parameters: Any,
    curated: CuratedDataset,
    settings: PlanSettings,
    split: str = "heldout",
    schedules: Sequence[str] = ("staircase",),
) -> LanguageResult:
    """Evaluates one split of a curated dataset."""
    plans, seen = episode_plans(curated, split), episode_plans(curated, "train")
    traces = {
        schedule: trace_accuracy(model, parameters, plans, PlanWriter(curated, settings, model.text_length), schedule)
        for schedule in schedules
    }
    return LanguageResult(
        split, next_events(reasoning, curated, plans, seen), remaining_times(reasoning, curated, plans, seen), traces
    )


def next_events(
    reasoning: Reasoning, curated: CuratedDataset, plans: Sequence[Plan], seen: Sequence[Plan]
) -> NextEventResult:
    """The next event at the first frame of every event, past events given as they were annotated."""
    kinds = {event.caption: event.name[:2] for plan in seen for event in plan.events}
    requests, truth, before = [], [], []
    for plan in plans:
        for number, event in enumerate(plan.events):
            requests.append(moment_request(curated, Moment(plan, number, event.start)))
            truth.append(event.name[:2])
            before.append(plan.events[number - 1].name[:2] if number else None)
    found = [kinds.get(event.caption) for event in reasoning.next_events(requests)]
    right = [a == b for a, b in zip(found, truth, strict=True)]
    verbs: dict[str, tuple[int, int]] = {}
    for (verb, _), good in zip(truth, right, strict=True):
        done, asked = verbs.get(verb, (0, 0))
        verbs[verb] = done + good, asked + 1
    followers = bigrams(seen)
    majority = Counter(event.name[:2] for plan in seen for event in plan.events).most_common(1)[0][0]
    guesses = [followers.get(kind, majority) for kind in before]
    return NextEventResult(
        events=len(truth),
        accuracy=float(np.mean(right)),
        majority=float(np.mean([kind == majority for kind in truth])),
        bigram=float(np.mean([guess == kind for guess, kind in zip(guesses, truth, strict=True)])),
        by_verb=verbs,
        unknown=found.count(None),
    )


def bigrams(plans: Sequence[Plan]) -> dict[Kind | None, Kind]:
    """The kind of event that most often follows each kind, and (under None) the one that most often comes first."""
    counts: dict[Kind | None, Counter[Kind]] = {}
    for plan in plans:
        previous = None
        for event in plan.events:
            counts.setdefault(previous, Counter())[event.name[:2]] += 1
            previous = event.name[:2]
    return {kind: min(found, key=lambda name: (-found[name], name)) for kind, found in counts.items()}


def remaining_times(
    reasoning: Reasoning, curated: CuratedDataset, plans: Sequence[Plan], seen: Sequence[Plan]
) -> TimeResult:
    """The time that remains of events with known captions, at several fractions of them."""
    lengths: dict[str, list[int]] = {}
    for plan in seen:
        for event in plan.events:
            lengths.setdefault(event.name[0], []).append(event.end - event.start)
    halves = {verb: np.mean(values) / 2 for verb, values in lengths.items()}
    overall = np.mean([length for values in lengths.values() for length in values]) / 2
    requests, captions, truth, guesses, spans = [], [], [], [], []
    for plan in plans:
        for number, event in enumerate(plan.events):
            spans.append(event.end - event.start)
            for frame in sorted({event.start + int(fraction * spans[-1]) for fraction in FRACTIONS}):
                requests.append(moment_request(curated, Moment(plan, number, frame)))
                captions.append(event.caption)
                truth.append(event.end - frame)
                guesses.append(halves.get(event.name[0], overall))
    found, length = reasoning.remaining_steps(requests, captions), float(np.mean(spans))
    errors = [float(np.mean(np.abs(np.asarray(values) - truth))) / length for values in (found, guesses)]
    return TimeResult(len(truth), length, *errors)


def moment_request(curated: CuratedDataset, moment: Moment) -> Request:
    """What a planner would have been told at a moment of a recorded episode."""
    episode, plan = moment.plan.episode, moment.plan
    picture = np.asarray(curated.frame_map(episode)[moment.frame])
    seen = np.ones(len(curated.views), bool)
    observation = Observation(picture, seen, curated.state(episode)[moment.frame], curated.embodiment.dof_mask)
    return Request(observation, plan.instruction, tuple(event.caption for event in plan.events[: moment.number]))


def trace_accuracy(
    model: Model, parameters: Any, plans: Sequence[Plan], writer: PlanWriter, schedule: str, rows: int = 32
) -> float:
    """Share of the traces' tokens that the small language model finds likeliest, given the latents of a schedule and
    the tokens before; at the middle of every event."""
    moments = [
        Moment(plan, number, (event.start + event.end) // 2)
        for plan in plans
        for number, event in enumerate(plan.events)
    ]
    program, right, count = jax.jit(lambda tree, batch: _right_tokens(model, tree, batch, schedule)), 0, 0
    for first in range(0, len(moments), rows):
        part = moments[first : first + rows]
        batch = writer.batch([*part, *[part[-1]] * (rows - len(part))])
        found, labels = (np.asarray(value)[: len(part)] for value in program(parameters, batch))
        right, count = right + int((found & labels).sum()), count + int(labels.sum())
    return right / count


def _right_tokens(model: Model, parameters: Any, batch: Any, schedule: str) -> tuple[Any, Any]:
    variables = {"params": parameters}
    latents = model.apply(variables, model.apply(variables, batch, method="read"), schedule, method="think")
    scores = model.apply(variables, latents, batch.trace, batch.trace_mask, method="reconstruct")
    return scores[:, :-1].argmax(-1) == batch.trace[:, 1:], objectives.trace_labels(batch)[:, 1:]
