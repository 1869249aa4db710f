"""The request record shared by policies, text sources, planners and closed-loop controllers."""

from typing import NamedTuple

from wallwm_jax.core.types import Observation


class Request(NamedTuple):
    """One robot at one control step: its observation, its task, and the progress of its rollout."""

    observation: Observation
    instruction: str = ""
    """The task, in words."""
    done: tuple[str, ...] | None = None
    """Captions of completed events, in order. None if the caller does not track them: a policy then uses its own
    memory of the rollout."""
    caption: str | None = None
    """The event to perform now, if known."""
    chunk: int = 0
    """Number of predictions made earlier in this rollout."""
    elapsed: int = 0
    """Control steps since the rollout began; 0 starts a new one."""
    scene: int = 0
    """Index of the robot or simulated scene in the batch; fixed for the whole rollout."""
    watched: tuple[tuple[int, Observation], ...] = ()
    """Observations between the previous request and this one, as (elapsed, observation) pairs, for controllers that ask
    for them."""

    @property
    def memory(self) -> tuple[str, ...]:
        """`done`, empty where it is None."""
        return self.done or ()
