"""Processes leave after the same step, soon after one of them is asked to."""

import threading
import time

import numpy as np
import pytest

from wallwm_jax.core.errors import RunError
from wallwm_jax.train import agreement
from wallwm_jax.train.agreement import StopAgreement

AHEAD = 4
"""Steps that a training may have dispatched more than another one, whose devices it waits for then."""


class Shared:
    """What a coordinator keeps for `count` processes; `of(index)` is a process's board."""

    def __init__(self, count):
        self.count, self.index, self.texts = count, 0, {}

    def of(self, index):
        board = Shared(self.count)
        board.index, board.texts = index, self.texts
        return board

    def write(self, name, text):
        assert name not in self.texts, "written twice"
        self.texts[name] = text

    def read(self, folder):
        return {name.partition(f"{folder}/")[2]: text for name, text in list(self.texts.items())}


class Training(threading.Thread):
    """The steps of one process: each takes a while, and waits until no process is more than `AHEAD` behind."""

    def __init__(self, board, numbers, signals, steps, seed):
        super().__init__(daemon=True)
        self.board, self.numbers, self.signals, self.steps = board, numbers, signals, steps
        self.pauses, self.left = np.random.default_rng((seed, board.index)), None

    def run(self):
        index = self.board.index
        stopping = StopAgreement(
            lambda: self.signals.get(index, self.steps) <= self.numbers[index], self.board, "run", 0, 20
        )
        with stopping:
            while not stopping.leaves(self.numbers[index]) and self.numbers[index] < self.steps:
                time.sleep(self.pauses.uniform(0, 0.004))
                self.numbers[index] += 1
                while min(self.numbers) < self.numbers[index] - AHEAD:
                    time.sleep(0.001)
        self.left = self.numbers[index]


def _run(count, signals, steps, seed):
    """The steps after which the processes leave; `signals`: process -> the step at which it is asked to stop."""
    shared, numbers = Shared(count), [0] * count
    trainings = [Training(shared.of(index), numbers, signals, steps, seed) for index in range(count)]
    for training in trainings:
        training.start()
    for training in trainings:
        training.join(60)
    return [training.left for training in trainings]


@pytest.mark.parametrize("seed", range(12))
def test_all_leave_after_the_same_step(monkeypatch, seed):
    """Whoever is asked, at any step, and if all are asked at steps of their own: all leave after one step, never more
    than one beyond the farthest, though trainings run ahead of each other and wait for each other."""
    monkeypatch.setattr(agreement, "PAUSE", 0.01)
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 6))
    asked = generator.choice(count, size=int(generator.integers(1, count + 1)), replace=False)
    signals = {int(index): int(generator.integers(0, 30)) for index in asked}
    left = _run(count, signals, 1000, seed)
    assert len(set(left)) == 1 and left[0] is not None
    assert min(signals.values()) <= left[0] <= min(signals.values()) + AHEAD + 1


@pytest.mark.parametrize("signals", [{}, {0: 40}, {1: 39}, {0: 38, 2: 39}])
def test_a_run_that_ends_is_not_held_up(monkeypatch, signals):
    """Without a signal, and with one in the last steps, when others may have left already, all end: together at the
    last step or, asked in time, together before it."""
    monkeypatch.setattr(agreement, "PAUSE", 0.01)
    for seed in range(4):
        left = _run(3, signals, 40, seed)
        assert len(set(left)) == 1 and min(signals.values(), default=40) <= left[0] <= 40


def test_a_process_that_does_not_answer_is_named():
    """Within the patience; alone, a process asks nobody."""
    missing = pytest.raises(RunError, match=r"processes \[1, 2\] did not say within 0\.2 s how far they are")
    with StopAgreement(lambda: True, Shared(3), "run", 0, 0.2) as stopping, missing:
        stopping.leaves(0)
    with StopAgreement(lambda: True, None, "run", 0, 0.2) as alone:
        assert alone.leaves(0)
