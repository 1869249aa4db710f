"""Event mode as a policy: observations and captions in, robot commands out (WALL-WM §7)."""

from collections.abc import Sequence

from jaxtyping import Float, PRNGKeyArray
from numpy import ndarray

from wallwm_jax.core.rng import substream
from wallwm_jax.core.types import Observation
from wallwm_jax.infer.event_mode import EventMode


class EventPolicy:
    """Plans whole events, to be executed open loop before the next observation. The duration head sets their length."""

    def __init__(self, mode: EventMode, key: PRNGKeyArray):
        self._mode, self._key = mode, key

    def plan(
        self, observations: Sequence[Observation], captions: Sequence[str], turn: int
    ) -> list[Float[ndarray, "_ n"]]:
        """Commands of one event for each robot, in the order of the embodiment's action entries; `turn` names the
        noise, so that a repeated turn repeats its plan."""
        key = substream(self._key, turn)
        predictions = self._mode.predict(observations, captions, key=key, dream=False)
        return [self._mode.embodiment.lower(prediction.actions.actions) for prediction in predictions]
