"""The robot boundary: which number of a robot's state and action is which unified degree of freedom.

One object encodes what the loader reads and decodes what a policy predicts, so one round trip tests both.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import UNIFIED_DIMENSION
from wallwm_jax.data import transforms
from wallwm_jax.data.statistics import Statistics

_ARM = ("x", "y", "z", "r00", "r10", "r20", "r01", "r11", "r21", "gripper")
UNIFIED_NAMES = (
    *(f"{side}_arm.{part}" for side in ("left", "right") for part in _ARM),
    *("base.x", "base.y", "base.yaw", "lift.height", "head.yaw", "head.pitch"),
)
"""Name of each of the 26 unified degrees of freedom; rCR is row R, column C of nothing but the first two columns."""


def unit(slot: str) -> str:
    """The unit of one of `UNIFIED_NAMES`; raises InputError for any other name."""
    if slot not in UNIFIED_NAMES:
        raise InputError("degree of freedom", repr(slot), f"one of {UNIFIED_NAMES}")
    part = slot.partition(".")[2]
    if part in ("yaw", "pitch"):
        return "radians"
    if part == "gripper":
        return "0 closed to 1 open"
    return "entry of a rotation matrix" if part.startswith("r") else "metres"


@dataclasses.dataclass(frozen=True)
class Embodiment:
    """A robot: its views, its control rate and where its recorded numbers stand in the unified layout.

    `state` and `action` map an entry's name in the recording to a name of `UNIFIED_NAMES`, in recording order.
    """

    name: str
    control_hz: float
    views: tuple[str, ...]
    state_column: str
    action_column: str
    state: Mapping[str, str]
    action: Mapping[str, str]

    def __post_init__(self):
        for field in ("state", "action"):
            for entry, slot in getattr(self, field).items():
                if slot not in UNIFIED_NAMES:
                    raise InputError(f"embodiment {self.name}: {field}.{entry}", slot, f"one of {UNIFIED_NAMES}")
        missing = sorted(set(self.action.values()) - set(self.state.values()))
        if missing:
            raise InputError(f"embodiment {self.name}: state", f"nothing for {missing}", "every slot that `action` has")

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Embodiment":
        """Reads an embodiment file; raises InputError naming an unreadable file or a missing or unknown field."""
        try:
            values = json.loads(pathlib.Path(path).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(str(path), error, "a readable embodiment file") from error
        return cls.of(values, str(path))

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> "Embodiment":
        """From an embodiment file's values; raises InputError, naming `where`, as `load` does."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise InputError(f"{where}: fields", sorted(values), sorted(names))
        return cls(**dict(values) | {"views": tuple(values["views"])})

    def save(self, path: str | pathlib.Path) -> None:
        pathlib.Path(path).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @property
    def dof_mask(self) -> Bool[np.ndarray, "26"]:
        """Degrees of freedom that the robot is commanded in."""
        mask = np.zeros(UNIFIED_DIMENSION, bool)
        mask[[UNIFIED_NAMES.index(slot) for slot in self.action.values()]] = True
        return mask

    def lift_state(self, values: Float[np.ndarray, "T n"], names: Sequence[str]) -> Float[np.ndarray, "T 26"]:
        """Recorded states, whose columns are called `names`, in the unified layout; zeros elsewhere."""
        return _lift(values, names, self.state)

    def lift_action(self, values: Float[np.ndarray, "T n"], names: Sequence[str]) -> Float[np.ndarray, "T 26"]:
        """Recorded actions in the unified layout; zeros elsewhere."""
        return _lift(values, names, self.action)

    def lift(self, values: Float[np.ndarray, "T n"]) -> Float[np.ndarray, "T 26"]:
        """Values in the order of the embodiment's own `state` entries, as a robot or simulator gives them."""
        return self.lift_state(values, tuple(self.state))

    def lower(self, unified: Float[np.ndarray, "T 26"]) -> Float[np.ndarray, "T n"]:
        """Unified poses back to the order of the embodiment's `action` entries: what is sent to the robot."""
        return np.asarray(unified)[..., [UNIFIED_NAMES.index(slot) for slot in self.action.values()]]

    def encode_state(self, state: Float[np.ndarray, "26"], statistics: Statistics) -> Float[np.ndarray, "26"]:
        """Absolute unified state, normalised; exactly zero where `dof_mask` is False."""
        return np.where(self.dof_mask, statistics.normalise_state(state), 0.0).astype(np.float32)

    def encode(
        self, anchor_state: Float[np.ndarray, "26"], actions: Float[np.ndarray, "A 26"], statistics: Statistics
    ) -> Float[np.ndarray, "A 26"]:
        """Absolute unified targets, relative to the anchor state and normalised; zero where `dof_mask` is False."""
        mask = self.dof_mask
        relative = transforms.relative_actions(anchor_state, actions, mask)
        return np.where(mask, statistics.normalise_action(relative), 0.0).astype(np.float32)

    def decode(
        self, normalised: Float[np.ndarray, "A 26"], anchor_state: Float[np.ndarray, "26"], statistics: Statistics
    ) -> Float[np.ndarray, "A 26"]:
        """Inverse of `encode`: absolute unified poses, the anchor's own where `dof_mask` is False."""
        relative = statistics.restore_action(normalised)
        return transforms.absolute_actions(anchor_state, relative, self.dof_mask).astype(np.float32)


def _lift(values: np.ndarray, names: Sequence[str], mapping: Mapping[str, str]) -> np.ndarray:
    missing = [entry for entry in mapping if entry not in names]
    if missing:
        raise InputError("recorded entries", list(names), f"entries named {missing} too")
    values = np.asarray(values)
    unified = np.zeros((*values.shape[:-1], UNIFIED_DIMENSION), np.float32)
    for entry, slot in mapping.items():
        unified[..., UNIFIED_NAMES.index(slot)] = values[..., list(names).index(entry)]
    return unified
