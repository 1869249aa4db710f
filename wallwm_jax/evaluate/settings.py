"""What an evaluation is told (`config.evaluate`)."""

import dataclasses

from wallwm_jax.core.config import Section, check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.infer.denoise import SolverSettings
from wallwm_jax.infer.event_mode import EventModeSettings

SOLVER_KEYS = ("video_steps", "action_steps", "action_shift", "samples")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Which events are evaluated, and how many of them are dreamt and drawn.

    Attributes:
      split: the index's split that is evaluated; baselines always come from "train".
      events: events of each verb, spread evenly over the split; None takes all.
      video_events: events whose dream is finished, spread over the verbs.
      films: filmstrips in the report, at most one a verb.
      examples: trajectory plots in the report, at most one a verb.
      seed: of all noise.
      closed_loop_episodes: simulated episodes in each cell of the protocol at most (extra `sim`); 0 leaves the closed
        loop out.
      protocol: the closed loop's protocol file.
    """

    mode: EventModeSettings
    window: LoaderSettings
    split: str = "heldout"
    events: int | None = None
    video_events: int = 48
    films: int = 10
    examples: int = 10
    seed: int = 0
    closed_loop_episodes: int = 0
    protocol: str = "data_specs/protocols/tabletop.json"

    def __post_init__(self):
        for field in ("video_events", "films", "examples", "closed_loop_episodes"):
            if getattr(self, field) < 0:
                raise InputError(f"config.evaluate.{field}", getattr(self, field), "0 or more")
        if self.events is not None and self.events < 1:
            raise InputError("config.evaluate.events", self.events, "at least 1, or None for all")

    @classmethod
    def from_config(cls, config: Section) -> "EvaluationSettings":
        """From a whole run config; raises InputError on an unknown key of `config.evaluate`, naming the nearest."""
        values = dict(config["evaluate"])
        own = {field.name for field in dataclasses.fields(cls)} - {"mode", "window"}
        check_keys(values, {*own, *SOLVER_KEYS, "rows", "buckets"}, "config.evaluate")
        window = LoaderSettings.from_config(config["data"])
        chosen = {name: value for name, value in values.items() if name in own}
        return cls(mode=EventModeSettings.from_config(config), window=window, **chosen)


def describe(solver: SolverSettings) -> str:
    """One line on how predictions were made."""
    samples = "one action sample" if solver.samples == 1 else f"the mean of {solver.samples} action samples"
    return (
        f"{solver.video_steps} video steps, {solver.action_steps} action steps, {samples}; actions read the video at "
        f"step {solver.anchor_step} of {solver.denoise_steps}"
    )
