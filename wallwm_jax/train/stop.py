"""Being asked to stop: SIGTERM and SIGINT end a training at the next border of two steps, with everything saved."""

import os
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT)
UNFINISHED = 75
"""The exit code of a run that was asked to stop before its end: EX_TEMPFAIL of sysexits.h, "try again later". The same
command goes on from there; a job manager must not take the job for done."""


class StopSignals:
    """A context manager, for the main thread: inside it the first of the signals is noted in `received` (its name) and
    left to the training to act on; a second one does what it did before.

    Until a training sets `leave_at_once` to False it has nothing to save, and the process leaves with code `UNFINISHED`
    as soon as the signal arrives: XLA may be compiling, for minutes, and cannot be interrupted.
    """

    def __init__(self):
        self.received: str | None = None
        self.leave_at_once = True

    def __enter__(self) -> "StopSignals":
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # Python runs a handler only when the main thread is back in Python; the descriptor is written to at once.
        self._descriptor = signal.set_wakeup_fd(self._writing)
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()
        signal.set_wakeup_fd(self._descriptor)
        os.close(self._writing)
        self._watcher.join()
        os.close(self._reading)

    def _note(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _watch(self) -> None:
        while number := os.read(self._reading, 1):
            if number[0] not in SIGNALS:
                continue
            self.received = self.received or signal.Signals(number[0]).name
            if self.leave_at_once:
                print(f"asked to stop ({self.received}) before the first step: nothing to save", flush=True)
                os._exit(UNFINISHED)
