"""Normalisation ranges: the 1st and 99th percentile of every degree of freedom, saved with a digest.

They come from the parquet columns alone; no video is decoded for them. Values outside the range map outside [-1, 1];
nothing is clamped, so that normalising can always be undone.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.errors import InputError

SMALLEST_RANGE = 1e-4
"""Metres or radians. A degree of freedom that moves less is only centred: dividing by its range would blow up noise."""

FIELDS = ("state_low", "state_high", "action_low", "action_high")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """q01 (`low`) and q99 (`high`) of the anchor state (absolute) and of the relative actions, unified layout [26]."""

    state_low: Float[np.ndarray, "26"]
    state_high: Float[np.ndarray, "26"]
    action_low: Float[np.ndarray, "26"]
    action_high: Float[np.ndarray, "26"]

    def normalise_state(self, state: Float[np.ndarray, "... 26"]) -> Float[np.ndarray, "... 26"]:
        return _normalise(state, self.state_low, self.state_high)

    def normalise_action(self, relative: Float[np.ndarray, "... 26"]) -> Float[np.ndarray, "... 26"]:
        return _normalise(relative, self.action_low, self.action_high)

    def restore_action(self, normalised: Float[np.ndarray, "... 26"]) -> Float[np.ndarray, "... 26"]:
        """Inverse of `normalise_action`."""
        middle, half = _middle_and_half(self.action_low, self.action_high)
        return np.asarray(normalised, np.float64) * half + middle

    @property
    def digest(self) -> str:
        """SHA-256 of the values: two runs with the same digest normalise alike."""
        return hashlib.sha256(json.dumps(self._values(), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | pathlib.Path) -> None:
        pathlib.Path(path).write_text(json.dumps(self._values() | {"digest": self.digest}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Statistics":
        """Raises InputError if a field is missing or the values do not match their digest."""
        try:
            values = json.loads(pathlib.Path(path).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(str(path), error, "a readable statistics file") from error
        return cls.of(values, str(path))

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> "Statistics":
        """From a statistics file's values; raises InputError, naming `where`, as `load` does."""
        for field in (*FIELDS, "digest"):
            if field not in values:
                raise InputError(f"{where}: {field}", "nothing", "a value")
        statistics = cls(**{field: np.asarray(values[field], np.float64) for field in FIELDS})
        if statistics.digest != values["digest"]:
            raise InputError(f"{where}: digest", statistics.digest, values["digest"])
        return statistics

    def _values(self) -> dict[str, list[float]]:
        return {field: [float(value) for value in getattr(self, field)] for field in FIELDS}


def compute_statistics(states: Float[np.ndarray, "N 26"], relative_actions: Float[np.ndarray, "M 26"]) -> Statistics:
    """Percentiles over all frames' states and over all events' anchor-relative actions."""
    state_low, state_high = np.quantile(states.astype(np.float64), [0.01, 0.99], axis=0)
    action_low, action_high = np.quantile(relative_actions.astype(np.float64), [0.01, 0.99], axis=0)
    return Statistics(state_low, state_high, action_low, action_high)


def _middle_and_half(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = (high - low) / 2
    return (high + low) / 2, np.where(half < SMALLEST_RANGE / 2, 1.0, half)


def _normalise(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    middle, half = _middle_and_half(low, high)
    return (np.asarray(values, np.float64) - middle) / half
