"""The robot boundary of a closed loop: what a controller may command, whoever the controller is."""

from collections import Counter

import numpy as np
from jaxtyping import Float

from wallwm_jax.evaluate.protocol import Limits

NOT_FINITE, OUTSIDE, TOO_FAST = "not finite", "outside the workspace", "too fast"
NO_NUMBERS, WRONG_SHAPE, NO_COMMANDS, TOO_LONG = "no numbers", "wrong shape", "no commands", "longer than allowed"


class Guard:
    """Lets commands of one robot through or answers with the last one that was safe; counts what it refused.

    A command is refused if it is not finite, outside the limits, or further from the command before it than the speed
    allows in one control step. The first one after an observation may also start from where the arm is seen to be.
    """

    def __init__(self, limits: Limits, control_hz: float, position: Float[np.ndarray, "n"]):
        self.refusals: Counter[str] = Counter()
        self._low, self._high = np.array(limits.low), np.array(limits.high)
        self._step = limits.metres_per_second / control_hz
        self._last = np.clip(np.asarray(position, np.float64), self._low, self._high)
        self._seen: np.ndarray | None = None

    @property
    def last(self) -> Float[np.ndarray, "n"]:
        """The command to hold: the last safe one, at first the position at the start."""
        return self._last

    def observe(self, position: Float[np.ndarray, "n"]) -> None:
        """Says where the arm is now, in the order of the commands."""
        self._seen = np.asarray(position, np.float64)

    def check_plan(self, commands: object, longest: int) -> Float[np.ndarray, "steps n"] | None:
        """The commands of a plan as an array, or None (and one refusal) if they are not a plan at all."""
        try:
            values = np.asarray(commands, np.float64)
        except (TypeError, ValueError):
            return self._refuse_plan(NO_NUMBERS)
        if values.size == 0:
            return self._refuse_plan(NO_COMMANDS)
        if values.ndim != 2 or values.shape[1] != len(self._low):
            return self._refuse_plan(WRONG_SHAPE)
        return values if len(values) <= longest else self._refuse_plan(TOO_LONG)

    def safe(self, command: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """The command itself, or the last safe one if this one is refused."""
        reason = self._reason(command)
        if reason:
            self.refusals[reason] += 1
        else:
            self._last = command
        self._seen = None
        return self._last

    def _reason(self, command: np.ndarray) -> str | None:
        if not np.isfinite(command).all():
            return NOT_FINITE
        if (command < self._low).any() or (command > self._high).any():
            return OUTSIDE
        near = [self._last] if self._seen is None else [self._last, self._seen]
        distance = min(np.linalg.norm(command[:3] - place[:3]) for place in near)
        return TOO_FAST if distance > self._step else None

    def _refuse_plan(self, reason: str) -> None:
        self.refusals[reason] += 1
