"""Bad input: one message naming file or field, found and expected, and no partial output."""

import json
import shutil

import lerobot_fixture as toy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.curate import CurationSettings, curate


def rewrite(path, change):
    """Applies `change` to the rows of a parquet file."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def missing_video(root):
    toy.video_path(root, "wrist").unlink()


def cut_video(root):
    path = toy.video_path(root, "wrist")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def short_video(root):
    """A complete file that merely ends too early, as an interrupted recorder leaves it."""
    shutil.rmtree(root / "videos")
    episodes = toy.toy_episodes(3)
    episodes[-1].state = episodes[-1].state[:-5]
    toy._write_videos(root, episodes)


def missing_column(root):
    pq.write_table(pq.read_table(toy.data_path(root)).drop_columns(["action"]), toy.data_path(root))


def missing_metadata_column(root):
    pq.write_table(pq.read_table(toy.episodes_path(root)).drop_columns(["length"]), toy.episodes_path(root))


def missing_rows(root):
    table = pq.read_table(toy.data_path(root))
    pq.write_table(table.slice(0, table.num_rows - 3), toy.data_path(root))


def cut_parquet(root):
    path = toy.data_path(root)
    path.write_bytes(path.read_bytes()[:500])


def nan_state(root):
    def change(rows):
        rows[2]["observation.state"][1] = float("nan")

    rewrite(toy.data_path(root), change)


def infinite_action(root):
    def change(rows):
        rows[4]["action"][3] = float("inf")

    rewrite(toy.data_path(root), change)


def event_end_before_start(root):
    rewrite(toy.episodes_path(root), lambda rows: rows[1]["event_end"].__setitem__(0, 0))


def event_after_the_end(root):
    rewrite(toy.episodes_path(root), lambda rows: rows[1]["event_end"].__setitem__(3, rows[1]["length"] + 1))


def negative_start(root):
    rewrite(toy.episodes_path(root), lambda rows: rows[1]["event_start"].__setitem__(0, -1))


def uneven_event_lists(root):
    rewrite(toy.episodes_path(root), lambda rows: rows[1]["event_verb"].pop())


def long_caption(root):
    rewrite(toy.episodes_path(root), lambda rows: rows[0]["event_caption"].__setitem__(0, "x" * 100))


def no_events(root):
    def change(rows):
        for row in rows:
            row["event_start"], row["event_end"], row["event_caption"] = [], [], []
            row["event_verb"], row["event_object"], row["event_recovery"] = [], [], []

    rewrite(toy.episodes_path(root), change)


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_version(root):
    edit_json(root / "meta/info.json", codebase_version="v2.1")


def other_rate(root):
    edit_json(root / "meta/info.json", fps=30)


def missing_view(root):
    edit_json(root / "embodiment.json", views=["front", "topview"])


def other_entry_names(root):
    edit_json(root / "embodiment.json", state={"x1": "right_arm.x"}, action={"x1": "right_arm.x"})


DAMAGE = {
    missing_video: ["wrist/chunk-000/file-000.mp4", "no file"],
    cut_video: ["wrist/chunk-000/file-000.mp4"],
    short_video: ["wrist/chunk-000/file-000.mp4|front/chunk-000/file-000.mp4", "frames", "truncated"],
    missing_column: ["data/chunk-000/file-000.parquet", "'action'"],
    missing_metadata_column: ["meta/episodes/chunk-000/file-000.parquet", "'length'"],
    missing_rows: ["data/chunk-000/file-000.parquet", "episode 2"],
    cut_parquet: ["data/chunk-000/file-000.parquet", "unreadable"],
    nan_state: ["observation.state.y", "episode 0", "frame 2", "nan", "finite"],
    infinite_action: ["action.gripper", "frame 4", "inf"],
    event_end_before_start: ["meta/episodes", "episode 1", "event 0 end", "found 0"],
    event_after_the_end: ["meta/episodes", "episode 1", "event 3 end", "at most"],
    negative_start: ["episode 1", "event 0 start", "-1"],
    uneven_event_lists: ["episode 1", "event_verb"],
    long_caption: ["episode 0", "101 tokens", "at most 24"],
    no_events: ["'train'", "none"],
    other_version: ["codebase_version", "v2.1", "v3.0"],
    other_rate: ["fps", "30", "20"],
    missing_view: ["topview"],
    other_entry_names: ["meta/info.json", "observation.state.names", "x1"],
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return toy.write_dataset(tmp_path_factory.mktemp("pristine") / "toy", toy.toy_episodes(3))


def run(root, output):
    return curate(root, output, root / "embodiment.json", CurationSettings(text_length=24))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_named_and_leaves_nothing(damage, pristine, tmp_path):
    """The message names what is wrong; the output's folder is as empty as before."""
    root, place = tmp_path / "toy", tmp_path / "place"
    shutil.copytree(pristine, root)
    place.mkdir()
    damage(root)
    with pytest.raises(InputError) as caught:
        run(root, place / "out")
    for expected in DAMAGE[damage]:
        assert any(part in str(caught.value) for part in expected.split("|")), str(caught.value)
    assert list(place.iterdir()) == []


def test_interruption_leaves_nothing(pristine, tmp_path):
    """Also a fault that is no bad input, at any stage, removes what was written."""

    def interrupt(stage, done, total):
        if stage == "cluster":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate(pristine, tmp_path / "out", pristine / "embodiment.json", CurationSettings(text_length=24), interrupt)
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept(pristine, tmp_path):
    """Curation replaces a curated dataset only when told to, and never anything else."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("kept")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="out"):
            curate(pristine, tmp_path / "out", pristine / "embodiment.json", CurationSettings(), overwrite=overwrite)
    assert (tmp_path / "out/precious").read_text() == "kept"
    run(pristine, tmp_path / "new")
    with pytest.raises(InputError, match="new"):
        run(pristine, tmp_path / "new")
    settings = CurationSettings(text_length=24, seed=1)
    curate(pristine, tmp_path / "new", pristine / "embodiment.json", settings, overwrite=True)
    assert CuratedDataset.open(tmp_path / "new").report["settings"]["seed"] == 1


def test_unusable_episodes_are_rejected_with_reasons(tmp_path):
    """Jumps, broken clocks and events too short to learn from are left out, and the report says why."""
    episodes = toy.toy_episodes(4)
    episodes[1].state[20:] += 3.0
    start, _, *names = episodes[2].events[0]
    episodes[2].events[0] = (start, start + 1, *names)
    root = toy.write_dataset(tmp_path / "toy", episodes)

    def freeze_clock(rows):
        first = episodes[0].length
        third = first + episodes[1].length + episodes[2].length
        rows[third + 5]["timestamp"] = rows[third + 4]["timestamp"]

    rewrite(toy.data_path(root), freeze_clock)
    report = run(root, tmp_path / "out")
    reasons = {r.episode: r.reason for r in report.rejections}
    assert "jumps" in reasons[1] and "1 steps" in reasons[2] and "do not increase" in reasons[3]
    assert report.counts["episodes"] == 2 and report.counts["events"] == 7
    assert set(CuratedDataset.open(tmp_path / "out").episodes) == {0, 2}


def test_opening_something_else_is_refused(tmp_path):
    """A folder that curation did not write, and a curated one that has lost its frames."""
    with pytest.raises(InputError, match="curated dataset"):
        CuratedDataset.open(tmp_path)
    root = toy.write_dataset(tmp_path / "toy", toy.toy_episodes(2))
    run(root, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/frames")
    with pytest.raises(InputError, match=r"episode_000000\.npy"):
        CuratedDataset.open(tmp_path / "out").frames(0)
    assert np.isfinite(CuratedDataset.open(tmp_path / "out").state(0)).all()
