"""What a model must beat: holding still, and replaying the mean trajectory of the event's verb and object.

Both look at states and actions of the training split only, never at pixels. The mean trajectory's own error, each
training episode predicted from the others, tells which verbs depend on the scene.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.types import LEFT_ARM, POSITION, RIGHT_ARM, UNIFIED_DIMENSION
from wallwm_jax.evaluate.errors import MILLIMETRES, summarise, trajectory_error, unit_of

GRID = 32
"""Points of normalised time at which trajectories are averaged."""

SCENE_ERROR_MM = 30.0
SCENE_SHARE = 0.5
SCENE_RULE = (
    f"a verb depends on the scene if knowing verb and object is not enough to say where the arm goes: on training "
    f"events, each predicted from the other training episodes, the mean trajectory's median end error is over "
    f"{SCENE_ERROR_MM:.0f} mm and over {SCENE_SHARE:.0%} of hold-still's"
)


@dataclasses.dataclass(frozen=True)
class EventTrajectory:
    """The motion of one event, in absolute unified poses (world frame, metres; gripper 0..1)."""

    verb: str
    object: str
    episode: int
    anchor: Float[np.ndarray, "26"]
    """State at the anchor."""
    actions: Float[np.ndarray, "A 26"]
    """Slot k is the pose k + 1 steps after the anchor."""


def hold_still(anchor: Float[np.ndarray, "26"], steps: int) -> Float[np.ndarray, "A 26"]:
    """The anchor pose, gripper as it is, for `steps` steps."""
    return np.repeat(np.asarray(anchor)[None], steps, axis=0)


def _reference(anchor: Float[np.ndarray, "26"]) -> Float[np.ndarray, "26"]:
    """What the mean is taken relative to: the anchor's arm positions. Rotations and grippers are averaged absolute."""
    reference = np.zeros(UNIFIED_DIMENSION)
    for arm in (LEFT_ARM, RIGHT_ARM):
        reference[arm][POSITION] = anchor[arm][POSITION]
    return reference


def _resample(values: Float[np.ndarray, "A 26"], times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 26"]:
    """Linear interpolation at `times` in (0, 1]; step k of n lies at (k + 1) / n, time before step 0 holds step 0."""
    steps = len(values)
    own = (np.arange(steps) + 1) / steps
    return np.stack([np.interp(times, own, values[:, d]) for d in range(values.shape[1])], axis=-1)


@dataclasses.dataclass(frozen=True)
class MeanTrajectory:
    """Sums of time-normalised trajectories relative to the anchor, by (verb, object) and by verb alone."""

    sums: Mapping[tuple[str, str | None], Float[np.ndarray, "GRID 26"]]
    counts: Mapping[tuple[str, str | None], int]

    @classmethod
    def fit(cls, events: Iterable[EventTrajectory]) -> "MeanTrajectory":
        sums: dict = defaultdict(lambda: np.zeros((GRID, UNIFIED_DIMENSION)))
        counts: dict = defaultdict(int)
        times = (np.arange(GRID) + 1) / GRID
        for event in events:
            curve = _resample(np.asarray(event.actions, np.float64) - _reference(event.anchor), times)
            for key in ((event.verb, event.object), (event.verb, None)):
                sums[key] = sums[key] + curve
                counts[key] += 1
        return cls(dict(sums), dict(counts))

    def without(self, other: "MeanTrajectory") -> "MeanTrajectory":
        """The mean over these events less those of `other`; keys left empty disappear."""
        counts = {key: count - other.counts.get(key, 0) for key, count in self.counts.items()}
        kept = [key for key, count in counts.items() if count > 0]
        sums = {key: self.sums[key] - other.sums.get(key, 0) for key in kept}
        return MeanTrajectory(sums, {key: counts[key] for key in kept})

    def predict(self, event: EventTrajectory) -> Float[np.ndarray, "A 26"] | None:
        """Absolute trajectory of the event's length; by verb alone if the object is new, None if the verb is too."""
        key = next((k for k in ((event.verb, event.object), (event.verb, None)) if k in self.counts), None)
        if key is None:
            return None
        steps = len(event.actions)
        curve = _resample(self.sums[key] / self.counts[key], (np.arange(steps) + 1) / steps)
        return curve + _reference(event.anchor)


@dataclasses.dataclass(frozen=True)
class SceneDependence:
    """Whether a verb's target depends on the scene, and the training errors that say so."""

    scene_dependent: bool
    unit: str
    mean_end: float
    """Median end error of the mean trajectory fitted on the other training episodes."""
    hold_end: float
    events: int


def scene_dependence(training: Sequence[EventTrajectory]) -> dict[str, SceneDependence]:
    """SCENE_RULE applied to every verb of the training events."""
    everything = MeanTrajectory.fit(training)
    by_episode: dict[int, list[EventTrajectory]] = defaultdict(list)
    for event in training:
        by_episode[event.episode].append(event)
    errors: dict[str, list] = defaultdict(list)
    for events in by_episode.values():
        others = everything.without(MeanTrajectory.fit(events))
        for event in events:
            predicted = others.predict(event)
            if predicted is not None:
                unit, hold = unit_of(event.verb), hold_still(event.anchor, len(event.actions))
                pair = [trajectory_error(values, event.actions, unit) for values in (predicted, hold)]
                errors[event.verb].append(pair)
    return {verb: _judge(verb, pairs) for verb, pairs in errors.items()}


def _judge(verb: str, pairs: list) -> SceneDependence:
    mean, hold = (summarise(column).end_median for column in zip(*pairs, strict=True))
    unit = unit_of(verb)
    depends = unit == MILLIMETRES and mean > SCENE_ERROR_MM and mean > SCENE_SHARE * hold
    return SceneDependence(depends, unit, mean, hold, len(pairs))
