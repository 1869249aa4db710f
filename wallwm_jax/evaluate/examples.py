"""Single events for the report: films, trajectories and end points."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.settings import FRAMES_PER_LATENT
from wallwm_jax.evaluate.errors import MILLIMETRES, unit_of
from wallwm_jax.evaluate.events import RecordedEvent, arm_path, by_verb, future_frames, observation
from wallwm_jax.evaluate.open_loop import OpenLoop
from wallwm_jax.evaluate.results import Filmstrip, TrajectoryExample
from wallwm_jax.evaluate.settings import EvaluationSettings


def typical_places(result: OpenLoop, among: Sequence[int], verbs: Sequence[str]) -> list[int]:
    """For each verb the event among the given whose end error is the (upper) median of them: neither best nor worst."""
    places = []
    for verb in verbs:
        own = [place for place in among if result.events[place].trajectory.verb == verb]
        own.sort(key=lambda place: result.errors[place]["ours"].end)
        if own:
            places.append(own[len(own) // 2])
    return places


def filmstrips(
    result: OpenLoop, places: Sequence[int], curated: CuratedDataset, settings: EvaluationSettings
) -> list[Filmstrip]:
    """Keyframe and future frames of dreamt events, truth and dream; shown are the last frames of their latents."""
    films = []
    for place in places:
        event, dream = result.events[place], result.predictions[place].frames
        future = future_frames(curated, event, settings.window)
        truth = np.concatenate([observation(curated, event).views[None], future.reshape(-1, *future.shape[2:])])
        times = np.arange(1 + len(future)) * settings.window.steps_per_latent / curated.embodiment.control_hz
        times[-1] = min(times[-1], event.steps / curated.embodiment.control_hz)
        films.append(
            Filmstrip(
                title=event.caption,
                subtitle=_subtitle(event, result, place, curated.embodiment.control_hz),
                views=curated.views,
                times=times.tolist(),
                every=FRAMES_PER_LATENT,
                frame_seconds=settings.window.frame_stride / curated.embodiment.control_hz,
                truth=truth,
                dream=dream,
            )
        )
    return films


def _subtitle(event: RecordedEvent, result: OpenLoop, place: int, control_hz: float) -> str:
    unit, end = unit_of(event.trajectory.verb), result.errors[place]["ours"].end
    error = f"{end:.0f} mm" if unit == MILLIMETRES else f"{end:.2f} of the gripper's opening"
    expected = result.durations[place] / control_hz
    return (
        f"held-out episode {event.window.episode}; lasts {event.window.steps / control_hz:.1f} s "
        f"(predicted {expected:.1f} s); the arm ends {error} off"
    )


def trajectory_examples(result: OpenLoop, places: Sequence[int], control_hz: float) -> list[TrajectoryExample]:
    """Right-arm position and gripper of single events."""
    examples = []
    for place in places:
        event = result.events[place]
        mean = result.means[place]
        examples.append(
            TrajectoryExample(
                verb=event.trajectory.verb,
                caption=event.caption,
                control_hz=control_hz,
                truth=arm_path(event.trajectory.actions),
                ours=arm_path(result.predictions[place].actions.actions),
                mean=None if mean is None else arm_path(mean),
                anchor=arm_path(event.trajectory.anchor[None])[0],
            )
        )
    return examples


def end_points(result: OpenLoop) -> dict[str, Float[np.ndarray, "_ 2 3"]]:
    """For each moving verb: true and predicted displacement of the arm from the anchor at the event's end, metres."""
    points = {}
    for verb, places in by_verb(result.events).items():
        if unit_of(verb) != MILLIMETRES:
            continue
        pairs = []
        for place in places:
            event = result.events[place].trajectory
            anchor = arm_path(event.anchor[None])[0, :3]
            ends = (event.actions[-1:], result.predictions[place].actions.actions[-1:])
            pairs.append([arm_path(end)[0, :3] - anchor for end in ends])
        points[verb] = np.array(pairs)
    return points
