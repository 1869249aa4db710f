"""An invented evaluation, for tests of the report alone; a toy dataset; a protocol of a toy."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.evaluate import toy_dataset
from wallwm_jax.evaluate.closed_loop_results import CellResult, ClosedLoopResult, LoopFilm
from wallwm_jax.evaluate.errors import ErrorSummary, unit_of
from wallwm_jax.evaluate.lengths import LengthResult
from wallwm_jax.evaluate.metric import Measured
from wallwm_jax.evaluate.metrics import METRICS
from wallwm_jax.evaluate.protocol import ClosedLoopProtocol
from wallwm_jax.evaluate.results import (
    ClusterBalance,
    Curve,
    Evaluation,
    Filmstrip,
    ParameterRow,
    TrajectoryExample,
)
from wallwm_jax.evaluate.rollouts import Piece, Rollout
from wallwm_jax.evaluate.verb_results import ObjectResult, VerbResult
from wallwm_jax.evaluate.video_quality import FrameQuality, VideoQuality

PROTOCOLS = pathlib.Path("data_specs/protocols")
VERBS = ("reach", "grasp", "lift", "move", "place", "release", "retreat", "open", "close", "press")


def _scaled(value, unit):
    factor = 1.0 if unit == "mm" else 0.005
    return ErrorSummary(0.5 * value * factor, 0.6 * value * factor, value * factor, 1.3 * value * factor)


def _film(index, generator, size):
    columns = 3 + index % 4
    frames = 1 + 4 * (columns - 1)
    truth = np.full((frames, 3, size, size, 3), 210, np.uint8)
    for time in range(frames):
        for view in range(3):
            at = 8 + 2 * time + 4 * view
            truth[time, view, at : at + 18, 20 + 6 * view : 44] = (200, 80, 40)
    dream = (truth + generator.integers(-25, 25, truth.shape)).clip(0, 255).astype(np.uint8)
    times = [0.4 * column for column in range(columns)]
    views = ("front", "topview", "wrist")
    return Filmstrip(f"{VERBS[index]} the puck", "held-out episode 3, 1.6 s", views, times, 4, 0.1, truth, dream)


def _example(index, generator):
    steps = 16 + 4 * index
    line = np.linspace(0, 1, steps)[:, None]
    truth = np.concatenate([line * generator.normal(size=3) * 0.2, 1 - line], axis=1)
    ours = truth + generator.normal(size=truth.shape) * 0.01
    anchor = np.array([0, 0, 0, 1.0])
    return TrajectoryExample(VERBS[index], f"{VERBS[index]} the drawer handle", 20.0, truth, ours, truth * 0.7, anchor)


def _cell(size):
    films = tuple(
        LoopFilm(f"tour {success}", success, np.zeros((5, size, size, 3), np.uint8)) for success in (True, False)
    )
    return CellResult(
        "tours", "unseen", "event mode", 4, 40, 20, {verb: (2, 4) for verb in VERBS}, 61.5, (40.25, 80.0), 1,
        (0.05, 0.7), {"too <fast>": 3}, (7, 8), 1.5, ({"name": "a", "progress": 61.5},), films,
    )  # fmt: skip


def _rollout(mode, generator, size):
    truth = np.cumsum(generator.normal(size=(60, 4)) * 0.01, axis=0)
    pieces = [Piece(a, a + 6, f"<do> {a}", truth[a : a + 6] + 0.03, a == 12) for a in range(0, 60, 6)]
    frames, dreams = np.repeat(generator.integers(0, 255, (2, len(pieces), 3, 1, 1, 3), np.uint8), size, 3).repeat(
        size, 4
    )
    return Rollout(mode, "tidy <up>", 3, ("front", "topview", "wrist"), 20.0, truth, pieces, frames, dreams)


def invent(size: int = 96) -> Evaluation:
    """Ten verbs, six films of `size` pixels, two curves, a closed loop: every section of the report has content."""
    generator = np.random.default_rng(0)
    verbs = []
    for index, verb in enumerate(VERBS):
        ours, hold, mean = (_scaled(value + index, unit_of(verb)) for value in (20, 150, 60))
        objects = {name: ObjectResult(10, ours, mean) for name in ("blue puck", "red puck")}
        verbs.append(VerbResult(verb, unit_of(verb), 20, index % 2, index in (0, 3), ours, hold, mean, objects))
    steps = list(range(0, 400, 2))
    loss = list(np.exp(-np.array(steps) / 150) + 0.2 + 0.05 * generator.random(len(steps)))
    curves = [Curve(name, steps, loss, steps[::25], loss[::25]) for name in ("video", "action")]
    shares = [0.4, 0.3, 0.2, 0.1]
    true = generator.integers(5, 40, 60).tolist()
    predicted = [length + float(generator.normal()) * 2 for length in true]
    ends = {
        verb: generator.normal(size=(20, 1, 3)) * 0.2 + generator.normal(size=(20, 2, 3)) * 0.01
        for verb in ("reach", "move", "place")
    }
    quality = VideoQuality(
        FrameQuality(27, 0.9, 18), FrameQuality(24, 0.88, 9), FrameQuality(33, 0.96, 29), events=24, images=300
    )
    parameters = [
        ParameterRow(f"blocks/video/{i}", (6, 160, 640), 614400, "layers | embed -> mlp", "muon", True)
        for i in range(9)
    ]
    found = {"verbs": verbs, "video": quality, "length": LengthResult(60, 1.5, 2.0, 4.0, 5.0, predicted, true)}
    return Evaluation(
        measured=[Measured(metric, found[metric.name]) for metric in METRICS],
        filmstrips=[_film(index, generator, size) for index in range(6)],
        trajectories=[_example(index, generator) for index in range(6)],
        end_points=ends,
        closed_loop=ClosedLoopResult({"name": "toy", "version": 3}, {"name": "points"}, [_cell(size)]),
        curves=curves,
        clusters=[ClusterBalance(name, shares, [0.25] * 4) for name in ("seen and said", "how the arm moves")],
        parameters=parameters,
        counts={"held-out events": 200, "training events": 900, "video steps": 6},
        seconds=161.0,
        rollouts=[_rollout(mode, generator, size) for mode in ("event mode", "unified mode")],
    )


@pytest.fixture
def evaluation():
    """The function that invents an evaluation."""
    return invent


@pytest.fixture(scope="session")
def curated(tmp_path_factory):
    return toy_dataset.write(tmp_path_factory.mktemp("curated"))


@pytest.fixture
def protocol(tmp_path):
    """The tabletop's, for two short episodes of one cell, wide limits and 12 steps an event."""
    values = json.loads((PROTOCOLS / "tabletop.json").read_text())
    cell = {"name": "toy", "kind": "in distribution", "episodes": 2, "first_seed": 6_000_000}
    values["cells"] = [cell | {"programs": ["open_only", "close_then_press"]}]
    values |= {"event_steps": 12, "episode_steps": 100, "longest_plan": 8}
    values["limits"] = {"low": [-1] * 4, "high": [5] * 4, "metres_per_second": 2.4}
    shutil.copy(PROTOCOLS / "tabletop_rubric.json", tmp_path)

    def load(**changes):
        (tmp_path / "toy.json").write_text(json.dumps(values | changes))
        return ClosedLoopProtocol.load(tmp_path / "toy.json")

    return load
