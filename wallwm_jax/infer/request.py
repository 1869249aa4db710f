"""The one record that policies, text sources, planners and closed-loop controllers are asked with."""

from typing import NamedTuple

from wallwm_jax.core.types import Observation


class Request(NamedTuple):
    """One robot at one moment: what it sees, what it has been told, and where its rollout stands."""

    observation: Observation
    instruction: str = ""
    """The task in a person's words."""
    done: tuple[str, ...] | None = None
    """Captions of the events that are over, in order. None: the caller keeps no such list, and whoever answers uses
    its own (a policy remembers what it has executed)."""
    caption: str | None = None
    """The event that is due, where somebody knows it."""
    chunk: int = 0
    """Predictions made earlier in this rollout."""
    elapsed: int = 0
    """Control steps since the rollout began; 0 starts a new one."""
    scene: int = 0
    """Number of the robot (or simulated scene) among those that are served together; fixed throughout a rollout."""
    watched: tuple[tuple[int, Observation], ...] = ()
    """What was seen since the previous request and before `observation`, as (elapsed, observation) pairs, for
    controllers that ask for it."""

    @property
    def memory(self) -> tuple[str, ...]:
        """`done`, empty where it is None."""
        return self.done or ()
