"""The table of inference modes. To add one, write a file with its driver and loader, and add a row here."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from wallwm_jax.core.config import nearest
from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.driver import Driver, PolicySettings
from wallwm_jax.infer.event_driver import load_event_driver
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.infer.text_sources import CAPTION, INSTRUCTION, LATENTS, PLANNER
from wallwm_jax.infer.unified_driver import load_unified_driver
from wallwm_jax.train.world_action import WORLD_ACTION


@dataclasses.dataclass(frozen=True)
class InferenceMode:
    """One row.

    Attributes:
      name: the name by which it is selected.
      load: builds the driver from a trained run; raises InputError naming what the run lacks.
      source: the default text source.
      compared: text sources that the closed loop compares if available: name -> title of the result.
      baselines: whether the closed loop also runs the scripted expert and the hold-still baseline.
      family: the model family (`train.families`) whose runs it serves.
    """

    name: str
    load: Callable[[TrainedRun, PolicySettings], Driver]
    source: str
    compared: Mapping[str, str]
    baselines: bool = False
    family: str = WORLD_ACTION.name


MODES: tuple[InferenceMode, ...] = (
    InferenceMode(
        name="event",
        load=load_event_driver,
        source=CAPTION,
        compared={CAPTION: "event mode", PLANNER: "event mode, own planner"},
        baselines=True,
    ),
    InferenceMode(
        name="unified",
        load=load_unified_driver,
        source=INSTRUCTION,
        compared={
            INSTRUCTION: "unified mode, global instruction",
            CAPTION: "unified mode, a caption a chunk",
            LATENTS: "unified mode, Staircase latents",
        },
    ),
)


def mode_of(name: str, modes: Sequence[InferenceMode] = MODES, field: str = "mode") -> InferenceMode:
    """The row of that name; raises InputError, naming `field`, when there is none."""
    for mode in modes:
        if mode.name == name:
            return mode
    raise InputError(field, repr(name), nearest(name, [mode.name for mode in modes]))
