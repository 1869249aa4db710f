"""The first signal asks, the second one insists."""

import os
import signal

import pytest

from wallwm_jax.train.stop import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_does_what_it_did(number):
    """Inside, one signal changes nothing but `received`; another raises KeyboardInterrupt where SIGINT did so before.
    Outside, both handlers are those from before."""
    before = [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as stop:
        stop.leave_at_once = False
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == signal.Signals(number).name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)] == before


def test_without_a_signal_nothing_happens():
    """Entered again and again, it leaves no handler and no open descriptor behind."""
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        with StopSignals() as stop:
            assert stop.received is None and stop.leave_at_once
    assert not descriptors or len(os.listdir("/proc/self/fd")) == descriptors
