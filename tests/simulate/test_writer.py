"""The LeRobot v3.0 writer, without any simulator."""

import json

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Event
from wallwm_jax.simulate import lerobot_writer, recorder
from wallwm_jax.simulate.programs import UNSEEN_PROGRAMS
from wallwm_jax.simulate.recording import Recording

VIEWS = ("front", "wrist")


def make_recording(seed: int, length: int) -> Recording:
    """Moving smooth pictures whose brightness tells the frame, so that a wrong frame shows."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 60, 32)[:, None] + np.linspace(0, 60, 32)[None]
    level = 3.0 * np.arange(length)[:, None, None, None, None] + 20 * np.arange(2)[:, None, None, None]
    frames = np.broadcast_to(ramp[:, :, None] + level, (length, 2, 32, 32, 3)).astype(np.uint8)
    half = length // 2
    events = (Event(0, half, "reach for it", "reach", "red puck"), Event(half, length, "grasp it", "grasp", "red puck"))
    return Recording(
        seed,
        "tidy_red",
        f"task {seed % 2}",
        VIEWS,
        generator.normal(size=(length, 4)).astype(np.float32),
        generator.normal(size=(length, 4)).astype(np.float32),
        frames,
        np.tile(np.eye(3, dtype=np.float32), (length, 2, 1, 1)),
        np.tile(np.eye(4, dtype=np.float32), (length, 2, 1, 1)),
        events,
        (False, True),
    )


def write(folder, recordings):
    staged = []
    for index, recording in enumerate(recordings):
        staged.append(folder / "staging" / f"episode_{index:06d}")
        lerobot_writer.stage_episode(recording, staged[-1], "train")
    lerobot_writer.assemble(staged, folder / "dataset", "tabletop")
    return folder / "dataset"


@pytest.fixture
def recordings():
    return [make_recording(0, 10), make_recording(1, 31), make_recording(2, 14)]


def test_numbers_and_annotations_come_back(tmp_path, recordings):
    """Every episode is one row group that holds the recorded numbers bit for bit, and its events cover it."""
    root = write(tmp_path, recordings)
    file = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert file.num_row_groups == len(recordings) == len(rows)
    first = 0
    for index, (recording, row) in enumerate(zip(recordings, rows, strict=True)):
        table = file.read_row_group(index)
        for column, values in (("observation.state", recording.state), ("action", recording.action)):
            np.testing.assert_array_equal(np.array(table[column].to_pylist(), np.float32), values)
        assert table["index"].to_pylist() == list(range(first, first + row["length"]))
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (first, first + row["length"])
        assert row["event_start"][0] == 0 and row["event_end"][-1] == row["length"]
        assert row["event_start"][1:] == row["event_end"][:-1]
        assert row["event_recovery"] == [False, True] and row["seed"] == recording.seed
        first += row["length"]
    information = json.loads((root / "meta/info.json").read_text())
    assert information["codebase_version"] == "v3.0" and information["total_frames"] == first
    assert set(information["features"]) >= set(file.schema_arrow.names)


def test_frame_i_of_an_episode_is_at_its_start_plus_i_over_fps(tmp_path, recordings):
    """In the joined videos frame i of an episode stands at from_timestamp + i / 20 s and is the frame recorded; H.264
    at this quality changes a smooth picture by less than 2 grey levels, neighbours differ by 3."""
    root = write(tmp_path, recordings)
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for position, view in enumerate(VIEWS):
        key = lerobot_writer.video_key(view)
        with av.open(str(root / f"videos/{key}/chunk-000/file-000.mp4")) as container:
            frames = {
                round(float(frame.pts * frame.time_base), 4): frame.to_ndarray(format="rgb24")
                for frame in container.decode(video=0)
            }
        assert len(frames) == sum(row["length"] for row in rows)
        for recording, row in zip(recordings, rows, strict=True):
            for i in range(row["length"]):
                decoded = frames[round(row[f"videos/{key}/from_timestamp"] + i / 20, 4)]
                assert abs(decoded.mean() - recording.frames[i, position].mean()) < 1.4


def test_same_recordings_give_the_same_bytes(tmp_path, recordings):
    """Writing twice gives identical files."""
    roots = [write(tmp_path / name, recordings) for name in ("a", "b")]
    files = [sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) for root in roots]
    assert files[0] == files[1] and len(files[0]) == 8
    assert all((roots[0] / path).read_bytes() == (roots[1] / path).read_bytes() for path in files[0])


def test_refuses_to_overwrite_and_leaves_nothing_partial(tmp_path, recordings):
    """A folder that holds a dataset is refused by name and stays as it was; no episode at all is refused too."""
    root = write(tmp_path, recordings[:1])
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="dataset"):
        lerobot_writer.assemble([tmp_path / "staging" / "episode_000000"], root, "tabletop")
    with pytest.raises(InputError, match="episodes"):
        lerobot_writer.assemble([], tmp_path / "none", "tabletop")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "none").exists()


def test_plans_hold_out_by_seed():
    """The sample's plan has 20 + 30 episodes of which 5 + 7 are held out; no seed is used twice in a plan."""
    plan = recorder.sample_plan()
    assert len(plan) == 50 and sum(row.split == "heldout" for row in plan) == 12
    free = {name: recorder.PLANS[name](200) for name in recorder.FREE_LENGTH}
    for name, rows in free.items():
        # Of 200 scenes 28 are tours and 86 short programs; a recovery start is never held out.
        expected = {"unseen": 0, "scenes": 3 + 10}.get(name, 24)
        assert sum(row.split == "heldout" for row in rows) == expected
    for rows in (plan, *free.values()):
        assert len({row.seed for row in rows}) == len(rows)


def test_unseen_episodes_follow_the_tours_and_never_train():
    """`tours_unseen` is the tours as they are and 16 episodes of the split "unseen", from seeds that no tour has."""
    tours, both = recorder.PLANS["tours"](40), recorder.PLANS["tours_unseen"](40)
    assert both[:40] == tours and {row.split for row in both[40:]} == {"unseen"} and len(both) == 56
    assert {row.program for row in both[40:]} == {item.name for item in UNSEEN_PROGRAMS}


def test_further_files_stand_in_the_dataset(tmp_path, recordings):
    """What is given as text is written with the dataset, below its own folders."""
    lerobot_writer.stage_episode(recordings[0], tmp_path / "staged", "train")
    lerobot_writer.assemble([tmp_path / "staged"], tmp_path / "out", "tabletop", {"meta/plans.jsonl": "{}\n"})
    assert (tmp_path / "out/meta/plans.jsonl").read_text() == "{}\n"


def test_unknown_program_is_refused(tmp_path):
    """A plan that names no program is refused before anything is recorded or written."""
    with pytest.raises(InputError, match="program"):
        recorder.record(tmp_path / "out", [(0, "juggle", "train")])
    with pytest.raises(InputError, match="stock task"):
        recorder.record(tmp_path / "out", [(0, "stock/juggle", "train")])
    assert list(tmp_path.iterdir()) == []
