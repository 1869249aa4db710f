"""What an evaluation saw and did as a Rerun recording, to scrub through in its viewer (extra `rerun`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.closed_loop_results import ClosedLoopResult
from wallwm_jax.evaluate.rollouts import Rollout

TIMELINE = "time"
RECORDED, PREDICTED = (31, 41, 51), (217, 72, 15)
NAMES = ("x", "y", "z", "gripper")


def write_rollouts(rollouts: Sequence[Rollout], path: Path) -> None:
    """Paths in the world frame and as curves over time, pictures and dreams at the ends of the pieces, and the texts.

    Raises InputError if Rerun is missing.
    """
    rerun, recording = _open(path)
    for rollout in rollouts:
        name = rollout.mode.replace(" ", "_")
        recorded = rerun.LineStrips3D([rollout.truth[:, :3]], colors=[RECORDED])
        recording.log(f"{name}/world/recorded", recorded, static=True)
        _curves(rerun, recording, f"{name}/curves/recorded", rollout.truth, 0, rollout.control_hz)
        for piece, frame, dream in zip(rollout.pieces, rollout.frames, rollout.dreams, strict=True):
            recording.set_time(TIMELINE, duration=piece.start / rollout.control_hz)
            recording.log(f"{name}/text", rerun.TextLog(piece.text + " (refused)" * piece.failed))
            strip = rerun.LineStrips3D([piece.path[:, :3]], colors=[PREDICTED])
            recording.log(f"{name}/world/predicted", strip)
            _curves(rerun, recording, f"{name}/curves/predicted", piece.path, piece.start, rollout.control_hz)
            recording.set_time(TIMELINE, duration=piece.end / rollout.control_hz)
            for view, label in enumerate(rollout.views):
                recording.log(f"{name}/{label}/recorded", rerun.Image(frame[view]))
                recording.log(f"{name}/{label}/dreamt", rerun.Image(dream[view]))
    recording.flush()


def write_closed_loop(result: ClosedLoopResult, path: Path) -> None:
    """The films of every cell and controller, picture by picture.

    Raises InputError if Rerun is missing.
    """
    rerun, recording = _open(path)
    for cell in result.cells:
        for film in cell.films:
            place = "/".join(part.replace(" ", "_") for part in (cell.cell, cell.controller, _outcome(film.success)))
            recording.log(f"{place}/title", rerun.TextLog(film.title), static=True)
            for number, frame in enumerate(film.frames):
                recording.set_time("picture", sequence=number)
                recording.log(place, rerun.Image(frame))
    recording.flush()


def _outcome(success: bool) -> str:
    return "success" if success else "failure"


def _curves(rerun: Any, recording: Any, name: str, path: np.ndarray, start: int, control_hz: float) -> None:
    """One scalar a control step; a command is for the end of its step."""
    seconds = (start + 1 + np.arange(len(path))) / control_hz
    times = rerun.TimeColumn(TIMELINE, duration=seconds)
    for column, label in enumerate(NAMES):
        recording.send_columns(f"{name}/{label}", [times], rerun.Scalars.columns(scalars=path[:, column]))


def check_installed() -> Any:
    """Rerun's module; raises InputError if it is missing, before anything else takes its time."""
    try:
        import rerun
    except ImportError as error:
        raise InputError("--rerun", f"{error.name} is not installed", "pip install 'wallwm_jax[rerun]'") from error
    return rerun


def _open(path: Path) -> tuple[Any, Any]:
    rerun = check_installed()
    recording = rerun.RecordingStream("wallwm", recording_id=path.stem)
    recording.save(str(path))
    return rerun, recording
