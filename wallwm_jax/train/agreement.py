"""When the processes of a run leave: all after the same step, seconds after a signal has reached any one of them.

The devices' collectives keep the processes together, but not their Python: one may have dispatched a few more steps
than another. A process that is asked to stop writes on a board, which all can read, how many steps it has dispatched,
and waits. A thread of every other process reads the board every `PAUSE` seconds, holds its own training before the
next step and writes its number, too. Once all numbers are there, every training goes on to the largest one plus one,
and leaves. The threads answer while their trainings wait for each other's devices, so that no training waits for ever.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from wallwm_jax.core.errors import RunError

PAUSE = 1.0
"""Seconds between two looks at the board."""
_HASTE = 0.05
"""The same while the processes are agreeing, and their trainings wait."""


@runtime_checkable
class Board(Protocol):
    """Short texts that the processes of a run leave for each other (`message_board.MessageBoard`)."""

    index: int
    count: int

    def write(self, name: str, text: str) -> None: ...

    def read(self, folder: str) -> dict[str, str]:
        """All texts that were written under `<folder>/...`, by the rest of their names."""
        ...


class StopAgreement:
    """A context manager around the steps of one run in one process. `asked()` says whether this process has been asked
    to stop, `name` is the run's own among those that use the board, and `start` the step that it begins at.

    Without a board, in a run of one process, nobody has to be asked.
    """

    def __init__(self, asked: Callable[[], bool], board: Board | None, name: str, start: int, patience: float):
        self._asked, self._board, self._name, self._patience = asked, board, name, patience
        self._number, self._last, self._error = start - 1, None, None
        self._lock, self._wake, self._closed = threading.Lock(), threading.Event(), threading.Event()
        self._settled = threading.Event()
        self._said = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StopAgreement":
        if self._board is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Whoever agrees on a step after this one has finished need not wait for it."""
        if self._board is None:
            return
        self._closed.set()
        self._wake.set()
        self._thread.join()
        if not self._said and error[0] is None:
            self._say()

    def leaves(self, number: int) -> bool:
        """Whether the training is to leave now that it has dispatched `number` steps. If not, it must dispatch another
        one before it asks again.

        Raises RunError if other processes have not said within `patience` seconds how far they are.
        """
        if self._board is None:
            return self._asked()
        if self._asked():
            self._wake.set()
            self._settled.wait()
        with self._lock:
            if self._error is not None:
                raise RunError(f"the processes could not agree when to stop: {self._error}") from self._error
            if self._last is None or number < self._last:
                self._number = number
                return False
            return True

    def _watch(self) -> None:
        """The thread: waits until any process is asked, then agrees with all."""
        try:
            while not self._closed.is_set():
                if self._asked() or self._board.read(self._name):
                    with self._lock:
                        self._agree()
                    return
                self._wake.wait(PAUSE)
        except Exception as error:  # of the board, which raises what its transport does
            self._error = error
        finally:
            self._settled.set()

    def _agree(self) -> None:
        self._say()
        deadline = time.monotonic() + self._patience
        while not self._closed.is_set():
            said = self._board.read(self._name)
            if len(said) == self._board.count:
                self._last = 1 + max(int(text) for text in said.values())
                return
            if time.monotonic() > deadline:
                missing = sorted(set(range(self._board.count)) - {int(index) for index in said})
                raise RunError(f"processes {missing} did not say within {self._patience:g} s how far they are")
            time.sleep(_HASTE)

    def _say(self) -> None:
        self._board.write(f"{self._name}/{self._board.index}", str(self._number))
        self._said = True
