"""Judging the vision-language side: baselines by hand, and a reasoning whose answers are known."""

import numpy as np
import pytest

from wallwm_jax.core.types import Observation
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.planning import Moment, Plan, PlannedEvent
from wallwm_jax.evaluate import language
from wallwm_jax.infer.reasoning import NextEvent, Reasoning

REACH, GRASP, PRESS = ("reach", "puck", ""), ("grasp", "puck", ""), ("press", "button", "")


def plan(*names, start=0):
    """Events of ten frames each, captioned by their names."""
    events = [
        PlannedEvent(" ".join(name[:2]), name, place, start + 10 * place, start + 10 * place + 10)
        for place, name in enumerate(names)
    ]
    return Plan(0, "do it", tuple(events))


UNREAD = object.__new__(CuratedDataset)
"""A dataset that nobody reads."""
SEEN = [plan(REACH, GRASP, PRESS), plan(REACH, GRASP, REACH), plan(PRESS, REACH, GRASP)]


class Known(Reasoning):
    """Answers with the events of a script, and always with the same time."""

    def __init__(self, captions, steps):
        self.captions, self.steps, self.asked = captions, steps, []

    def next_events(self, situations):
        self.asked += situations
        return [NextEvent(caption, self.steps) for caption in self.captions]

    def remaining_steps(self, situations, captions):
        return np.full(len(captions), self.steps)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Requests without pictures: the judge looks at none."""

    def moment_request(curated, moment: Moment):
        blank = Observation(np.zeros((1, 1, 1, 3), np.uint8), np.ones(1, bool), np.zeros(26), np.zeros(26, bool))
        done = tuple(event.caption for event in moment.plan.events[: moment.number])
        return language.Request(blank, moment.plan.instruction, done)

    monkeypatch.setattr(language, "moment_request", moment_request)


def test_bigrams_are_the_most_frequent_followers():
    """After a reach comes a grasp, first of all a reach."""
    assert language.bigrams(SEEN) == {
        None: REACH[:2], REACH[:2]: GRASP[:2], GRASP[:2]: PRESS[:2], PRESS[:2]: REACH[:2],
    }  # fmt: skip


def test_next_events_are_right_if_verb_and_object_are():
    """Two of three: one caption that training never had counts as wrong; both baselines by hand."""
    truth = [plan(REACH, GRASP, REACH)]
    reasoning = Known(["reach puck", "hover", "reach puck"], 5.0)
    found = language.next_events(reasoning, UNREAD, truth, SEEN)
    assert (found.events, found.unknown) == (3, 1) and found.accuracy == pytest.approx(2 / 3)
    assert found.by_verb == {"reach": (2, 2), "grasp": (0, 1)}
    assert found.majority == pytest.approx(2 / 3)  # reach is the most frequent of training
    assert found.bigram == pytest.approx(2 / 3)  # reach, grasp, and then press is guessed
    assert [item.done for item in reasoning.asked] == [(), ("reach puck",), ("reach puck", "grasp puck")]


def test_remaining_times_are_shares_of_the_mean_length():
    """Asked at frames 0, 2, 5 and 7 of ten: 10, 8, 5 and 3 remain; always saying 5 errs by 2.5 steps on average."""
    found = language.remaining_times(Known([], 5.0), UNREAD, [plan(REACH)], SEEN)
    assert (found.moments, found.length) == (4, 10.0)
    assert found.error == found.verb == pytest.approx(0.25)
