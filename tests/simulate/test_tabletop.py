"""The tabletop, its expert and the recorder: needs the `sim` extra and EGL."""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")
pytest.importorskip("mujoco")
pytest.importorskip("metaworld")

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate import episodes, recorder
from wallwm_jax.simulate.environment import TabletopEnvironment
from wallwm_jax.simulate.plans import text_plan_lines
from wallwm_jax.simulate.programs import LONG_PROGRAMS, UNSEEN_PROGRAMS, program
from wallwm_jax.simulate.recording import EpisodeFailed


@pytest.fixture(scope="module")
def environment():
    """One simulator for the whole file, if this machine can render at all."""
    result = TabletopEnvironment()
    try:
        result.render()
    except Exception as error:
        pytest.skip(f"no off-screen rendering here: {error}")
    yield result
    result.close()


@pytest.fixture(scope="module")
def recording(environment):
    return episodes.record_episode(environment, 5, program("press_only"))


def test_same_seed_same_pixels_whatever_came_before(environment, recording):
    """A recording depends on its seed alone, not on the episodes that the simulator ran before."""
    environment.reset(77, program("red_to_mat"))
    environment.step(np.array([0.6, 0.1, 0.2, 1.0]))
    again = episodes.record_episode(environment, 5, program("press_only"))
    for name in ("state", "action", "frames", "intrinsics", "extrinsics"):
        np.testing.assert_array_equal(getattr(recording, name), getattr(again, name))
    assert recording.events == again.events


@pytest.mark.parametrize(
    ("seed", "name", "verb"), [(30_000, "grasp_red_mat", "grasp"), (30_001, "place_red_mat", "place")]
)
def test_recovery_starts_are_near_contact_and_off(environment, seed, name, verb):
    """The episode begins with the event after the skipped ones, marked as a recovery, from a pose 20 mm or more beside
    where the expert would have been and no more than 120 mm from the thing; and it succeeds from there. The same seed
    gives the same episode."""
    found, again = (episodes.record_episode(environment, seed, program(name), render=False) for _ in range(2))
    np.testing.assert_array_equal(found.state, again.state)
    assert found.events[0].verb == verb and found.recovery == (True, *[False] * (len(found.events) - 1))
    target = {"grasp": "red puck", "place": "mat"}[verb]
    off = np.linalg.norm(found.state[0, :2] - found.places[0][target][:2])
    assert 0.02 < off < 0.12
    if verb == "place":  # The puck is in the hand.
        assert np.linalg.norm(found.state[0, :3] - found.places[0]["red puck"]) < 0.05


def test_same_pixels_in_another_process(environment, recording):
    """Another process renders the same first picture to the bit."""
    code = (
        "from wallwm_jax.simulate.environment import TabletopEnvironment as E; "
        "from wallwm_jax.simulate.programs import program; import hashlib; e = E(); "
        "e.reset(5, program('press_only')); print(hashlib.sha256(e.render().tobytes()).hexdigest())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split()[-1] == hashlib.sha256(recording.frames[0].tobytes()).hexdigest()


def test_replayed_actions_reproduce_the_states(environment, recording):
    """The recorded actions, stepped from the same reset, give the recorded states exactly."""
    environment.reset(5, program("press_only"))
    for state, action in zip(recording.state, recording.action, strict=True):
        np.testing.assert_array_equal(environment.state(), state)
        environment.step(action)


def test_events_cover_the_episode_and_last_a_useful_time(environment):
    """Consecutive events share borders, cover the episode, and none is longer than 40 steps."""
    for seed in range(3):
        result = episodes.record_episode(environment, seed, LONG_PROGRAMS[seed], render=False)
        borders = [0, *(event.end for event in result.events)]
        assert [event.start for event in result.events] == borders[:-1] and borders[-1] == len(result.state)
        assert np.diff(borders).min() >= 4 and np.diff(borders).max() <= 40
        assert np.abs(result.action[1:, :3] - result.action[:-1, :3]).max() < 0.08


@pytest.mark.parametrize("view", range(3))
def test_a_known_point_projects_onto_its_pixel(environment, view):
    """The centres of the pucks and the mat, projected with the calibration, fall on pixels of their colours in nearly
    every image in which they lie (the arm may hide one), and 12 pixels beside them in nearly none."""
    colours = {"red puck": (0, (1, 2)), "blue puck": (2, (0, 1)), "mat": (1, (0, 2))}
    hits, misses, total = 0, 0, 0
    for seed in range(12):
        environment.reset(seed, program("red_to_mat"))
        image = environment.render()[view].astype(int)
        intrinsics, extrinsics = environment.cameras()
        for name, (channel, others) in colours.items():
            camera = extrinsics[view] @ np.append(environment.snapshot().objects[name], 1.0)
            column, row = (intrinsics[view] @ camera[:3])[:2] / camera[2]
            if camera[2] < 0.05 or not (14 < column < 82 and 14 < row < 82):
                continue
            margin = np.array([image[..., other] - image[..., channel] for other in others])
            coloured = (margin > 60).all(0) if name == "mat" else (margin < -60).all(0)
            hits += coloured[int(row), int(column)]
            misses += coloured[int(row), int(column) - 12] + coloured[int(row) - 12, int(column)]
            total += 1
    assert total >= 12 and hits >= 0.75 * total and misses <= 0.5 * hits


def test_everything_is_in_the_fixed_views(environment):
    """Every object and target is inside the front and the top image, whatever the seed."""
    for seed in range(40):
        environment.reset(seed, LONG_PROGRAMS[seed % len(LONG_PROGRAMS)])
        intrinsics, extrinsics = environment.cameras()
        for place in environment.snapshot().objects.values():
            for view in (0, 1):
                camera = extrinsics[view] @ np.append(place, 1.0)
                pixel = (intrinsics[view] @ camera[:3])[:2] / camera[2]
                assert camera[2] > 0 and (pixel > 3).all() and (pixel < 93).all()


def test_the_expert_does_the_unseen_programs(environment):
    """At least nine in ten of them succeed: what a policy fails at there is not beyond the arm."""
    done = 0
    for number in range(32):
        try:
            episodes.record_episode(environment, 60_000 + number, UNSEEN_PROGRAMS[number % 8], render=False)
            done += 1
        except EpisodeFailed:
            continue
    assert done >= 29


def test_nothing_is_completed_before_it_is_done(environment):
    """Right after a reset no event but a lucky reach counts as done; after its motion it does."""
    environment.reset(3, program("red_to_drawer"))
    for primitive in (*LONG_PROGRAMS[0].primitives, *LONG_PROGRAMS[2].primitives):
        if primitive.verb not in ("reach", "close", "open"):
            assert not environment.event_completed(primitive.verb, primitive.object, primitive.target)
    with pytest.raises(InputError, match="verb"):
        environment.event_completed("juggle", "red puck")


def test_observation_is_the_unified_layout(environment, recording):
    """The observation after a reset is the recording's first frame, its state in the four actuated slots of 26."""
    environment.reset(5, program("press_only"))
    observation = environment.observe()
    np.testing.assert_array_equal(observation.views, recording.frames[0])
    np.testing.assert_array_equal(observation.state[observation.dof_mask], recording.state[0])
    assert np.flatnonzero(observation.dof_mask).tolist() == [10, 11, 12, 19] and observation.view_mask.all()
    assert not observation.state[~observation.dof_mask].any()


@pytest.mark.parametrize("action", [[0.5, 0.0, np.nan, 1.0], [0.5, np.inf, 0.2, 0.0], [0.5, 0.0, 0.2]])
def test_bad_actions_are_refused(environment, action):
    """A target that is not finite, or not four numbers, never reaches the simulator."""
    with pytest.raises(InputError, match="action"):
        environment.step(np.array(action))


def test_failed_seeds_are_left_out_and_counted_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    """A seed whose goals do not hold is reported and not written; staged episodes are not recorded again."""
    plan = [(0, "press_only", "train"), (1, "press_only", "train"), (2, "press_only", "heldout")]
    real, performed = episodes.record_episode, []

    def flaky(environment, seed, chosen, render=True):
        performed.append(seed)
        if seed == 2 and len(performed) == 3:
            raise KeyboardInterrupt
        if seed == 1:
            raise EpisodeFailed("seed 1, press_only: press button")
        return real(environment, seed, chosen, render)

    class Serial:
        """Runs submitted work at once, in this process, so that the patched expert is the one that runs."""

        def __init__(self, *arguments):
            self.arguments = arguments

        def __enter__(self):
            return self

        def __exit__(self, *arguments):
            return None

        def submit(self, function, *arguments):
            future = concurrent.futures.Future()
            future.set_result(function(*arguments))
            return future

    monkeypatch.setattr(episodes, "record_episode", flaky)
    monkeypatch.setattr(recorder.concurrent.futures, "ProcessPoolExecutor", Serial)
    with pytest.raises(KeyboardInterrupt):
        recorder.record(tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="another plan"):
        recorder.record(tmp_path / "out", plan[:2])
    report = recorder.record(tmp_path / "out", plan, text_plans=3)
    assert performed == [0, 1, 2, 2]
    assert report.episodes == 2 and report.rejected == ("seed 1, press_only: press button",)
    rows = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["seed"] for row in rows] == [0, 2] and [row["split"] for row in rows] == ["train", "heldout"]
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["total_episodes"] == 2
    assert (tmp_path / "out/meta/plans.jsonl").read_text() == text_plan_lines(3, recorder.TEXT_PLANS_SEED)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
