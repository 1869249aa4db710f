"""Recorded events as evaluation needs them: what the model is shown, and what really happened."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import GRIPPER, POSITION, RIGHT_ARM, Observation
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.sampling import Draw
from wallwm_jax.data.settings import FRAMES_PER_LATENT, LoaderSettings
from wallwm_jax.data.windows import Window, frame_indices, make_window
from wallwm_jax.evaluate.baselines import EventTrajectory


@dataclasses.dataclass(frozen=True)
class RecordedEvent:
    """One event of the index, anchored at its start."""

    window: Window
    caption: str
    trajectory: EventTrajectory
    """The recorded targets over the control steps that fit the longest bucket."""

    @property
    def steps(self) -> int:
        """Control steps that the trajectory covers."""
        return len(self.trajectory.actions)


def recorded_event(curated: CuratedDataset, row: int | np.integer, settings: LoaderSettings) -> RecordedEvent:
    """The event of an index row."""
    columns = curated.index.columns
    window = make_window(curated, Draw(int(row), 0.0), settings)
    steps = window.action_steps(settings)
    trajectory = EventTrajectory(
        str(columns["verb"][row]),
        str(columns["object"][row]),
        window.episode,
        curated.state(window.episode)[window.anchor],
        curated.action(window.episode)[window.anchor : window.anchor + steps],
    )
    return RecordedEvent(window, str(columns["caption"][row]), trajectory)


def observation(curated: CuratedDataset, event: RecordedEvent) -> Observation:
    """The keyframe and state that the event starts from."""
    frames = curated.frames(event.window.episode, [event.window.anchor])[0]
    mask = curated.embodiment.dof_mask
    return Observation(frames, np.ones(len(frames), bool), event.trajectory.anchor, mask)


def future_frames(
    curated: CuratedDataset, event: RecordedEvent, settings: LoaderSettings
) -> UInt8[np.ndarray, "N R V H W 3"]:
    """The recorded frames of the event's future latents, held at its end."""
    indices = frame_indices(event.window, curated.length(event.window.episode), settings)
    frames = curated.frames(event.window.episode, indices.reshape(-1))
    return frames.reshape(-1, FRAMES_PER_LATENT, *frames.shape[1:])


def arm_path(poses: Float[np.ndarray, "A 26"]) -> Float[np.ndarray, "A 4"]:
    """The right arm's x, y, z (metres) and gripper opening, float64."""
    arm = np.asarray(poses, np.float64)[:, RIGHT_ARM]
    return np.concatenate([arm[:, POSITION], arm[:, GRIPPER]], axis=1)


def select_rows(curated: CuratedDataset, split: str, per_verb: int | None) -> Int[np.ndarray, "n"]:
    """Rows of a split, at most `per_verb` of each verb, spread evenly; raises InputError if there is none."""
    rows = curated.index.select(split)
    if not rows.size:
        raise InputError(f"{curated.root}: events of split {split!r}", "none", "at least one")
    if per_verb is None:
        return rows
    verbs = curated.index.columns["verb"][rows]
    kept = [_spread(rows[verbs == verb], per_verb) for verb in np.unique(verbs)]
    return np.sort(np.concatenate(kept))


def by_verb(events: Sequence[RecordedEvent]) -> dict[str, list[int]]:
    """Places of each verb's events, verbs in order of appearance."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(events):
        places[event.trajectory.verb].append(place)
    return dict(places)


def spread_over_verbs(events: Sequence[RecordedEvent], count: int) -> list[int]:
    """Places of at most `count` events, taken from the verbs in turn so that each gets an equal share."""
    groups = by_verb(events).values()
    turns = max((len(places) for places in groups), default=0)
    chosen = [places[turn] for turn in range(turns) for places in groups if turn < len(places)]
    return sorted(chosen[:count])


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(int)]
