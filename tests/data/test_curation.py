"""Curation: the index says what the annotations say, and clusters mean something."""

import json

import lerobot_fixture as toy
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.data import transforms
from wallwm_jax.data.curated import INDEX, NUMBERS, CuratedDataset, frame_names
from wallwm_jax.data.curation import cluster
from wallwm_jax.data.curation.curate import CurationSettings, curate
from wallwm_jax.data.curation.events import moving
from wallwm_jax.data.curation.frames import black_borders
from wallwm_jax.data.curation.index import SCHEMA, EventIndex
from wallwm_jax.data.digests import DIGESTS, file_digests


def test_index_rows_are_the_annotated_events(curated):
    """One row an event, in order, with a parent row of level "task" that contains it."""
    recorded = [(i, *event) for i, episode in enumerate(toy.toy_episodes(8)) for event in episode.events]
    rows = [curated.index.row(i) for i in curated.index.select()]
    assert [(r.episode, r.start, r.end, r.caption, r.verb, r.object) for r in rows] == recorded
    for row in rows:
        parent = curated.index.row(row.parent_rows[0])
        assert (parent.level, parent.episode, parent.caption) == ("task", row.episode, "tidy the table")
        assert parent.start <= row.start < row.end <= parent.end and row.length == row.end - row.start
    assert len(curated.index.select("train")) + len(curated.index.select("heldout")) == len(rows)
    assert {curated.index.row(i).episode for i in curated.index.select("heldout")} == {7}


def test_index_file_round_trip(curated, tmp_path):
    """Saving and loading keeps every column, lists included."""
    curated.index.save(tmp_path / "index.parquet")
    loaded = EventIndex.load(tmp_path / "index.parquet")
    assert loaded.table.equals(curated.index.table) and loaded.table.schema.names == SCHEMA.names


def test_store_holds_the_recorded_numbers_and_pictures(curated):
    """The frame store has every frame in its place; states and actions are the recording's."""
    for index, recorded in enumerate(toy.toy_episodes(8)):
        frames = curated.frames(index)
        expected = [[toy.picture(index, t, v) for v in range(2)] for t in range(recorded.length)]
        assert frames.shape == np.shape(expected)
        assert np.abs(frames.astype(int) - np.asarray(expected, int)).mean(axis=(1, 2, 3, 4)).max() < 8
        np.testing.assert_array_equal(curated.state(index)[:, [10, 11, 12, 19]], recorded.state)
        np.testing.assert_array_equal(curated.action(index)[:, [10, 11, 12, 19]], recorded.action)
        assert curated.length(index) == recorded.length


def test_statistics_come_from_training_events(curated):
    """q01 and q99 of anchor-relative actions over the training split's events, recomputed here one by one."""
    relative = []
    for number in curated.index.select("train"):
        row = curated.index.row(number)
        state, action = curated.state(row.episode), curated.action(row.episode)[row.start : row.end]
        relative.append(transforms.relative_actions(state[row.start], action, curated.embodiment.dof_mask))
    low, high = np.quantile(np.concatenate(relative), [0.01, 0.99], axis=0)
    np.testing.assert_allclose(curated.statistics.action_low, low, atol=1e-12)
    np.testing.assert_allclose(curated.statistics.action_high, high, atol=1e-12)


def test_curation_is_reproducible(dataset_root, curated, tmp_path):
    """Curating again gives the same index, labels included, the same statistics, and the same bytes in every file that
    is trained on."""
    settings = CurationSettings(vision_language_clusters=4, action_clusters=4, text_length=24, threads=1)
    curate(dataset_root, tmp_path / "again", dataset_root / "embodiment.json", settings)
    again = CuratedDataset.open(tmp_path / "again")
    assert again.index.table.equals(curated.index.table)
    assert again.statistics.digest == curated.statistics.digest == curated.report["statistics_digest"]
    names = [INDEX, NUMBERS, *frame_names(curated.root)]
    assert len(names) == 2 + 8 and file_digests(again.root, names) == file_digests(curated.root, names)


def test_curating_changed_data_gives_other_digests(tmp_path):
    """The same recording with its actions tripled, and one with other pictures: what curation writes down of each says
    that the files differ."""
    found = []
    for name in ("plain", "tripled", "inverted"):
        episodes = toy.toy_episodes(2)
        if name == "tripled":
            episodes[0].action[:] *= 3
        root = toy.write_dataset(tmp_path / name, episodes)
        if name == "inverted":
            first, second = sorted((root / "videos").rglob("*.mp4"))[:2]
            content = first.read_bytes(), second.read_bytes()
            second.write_bytes(content[0])
            first.write_bytes(content[1])
        curate(root, tmp_path / f"{name}_curated", root / "embodiment.json", CurationSettings(text_length=24))
        rows = json.loads((tmp_path / f"{name}_curated" / DIGESTS).read_text())
        found.append({file: row[-1] for file, row in rows.items()})
    plain, tripled, inverted = found
    assert set(plain) == {INDEX, NUMBERS, *frame_names(tmp_path / "plain_curated")}
    assert {name for name in plain if plain[name] != tripled[name]} >= {NUMBERS}
    assert {name for name in plain if plain[name] != inverted[name]} >= set(frame_names(tmp_path / "plain_curated"))


def test_settings_come_from_a_run_s_config():
    """The section `curation` is optional; an unknown key is refused with the nearest name."""
    config = {"seed": 3, "data": {"text_length": 40}, "curation": {"action_clusters": 5}}
    settings = CurationSettings.from_config(config)
    assert (settings.seed, settings.text_length, settings.action_clusters) == (3, 40, 5)
    assert CurationSettings.from_config({**config, "curation": {}}).action_clusters == CurationSettings.action_clusters
    with pytest.raises(InputError, match="action_clusters"):
        CurationSettings.from_config({**config, "curation": {"action_cluster": 5}})


def test_report_counts_agree_with_the_index(curated):
    """curation.json's counts and histograms are those of the index."""
    actions = curated.index.select()
    assert curated.report["counts"]["events"] == len(actions)
    for name, sizes in curated.report["clusters"].items():
        assert np.bincount(curated.index.columns[name][actions]).tolist() == sizes


def test_k_means_finds_separate_clouds():
    """Well separated clouds are recovered exactly, up to the order of the labels."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 30)
    features = generator.normal(size=(120, 3)) * 0.1 + np.eye(4, 3)[truth] * 5 - truth[:, None]
    labels = cluster.assign(features, cluster.k_means(features, 4, seed=0))
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 4


def test_small_clusters_are_dissolved():
    """Three outliers do not keep a cluster of their own where ten is the least; without a least they do."""
    generator = np.random.default_rng(0)
    features = np.concatenate([generator.normal(size=(100, 2)), generator.normal(size=(3, 2)) + 50])
    for minimum, smallest in ((10, 10), (1, 3)):
        centroids = cluster.k_means(features, 2 if minimum == 1 else 4, seed=0, minimum_size=minimum)
        sizes = np.bincount(cluster.assign(features, centroids))
        assert sizes.min() >= minimum and (minimum > 1 or sizes.min() == smallest)


def test_action_features_ignore_the_clock():
    """The same path at half the speed differs in its length feature alone."""
    path = np.cumsum(np.random.default_rng(0).normal(size=(20, 3)), axis=0)
    slow = np.stack([np.interp(np.linspace(0, 19, 39), np.arange(20), column) for column in path.T], axis=1)
    fast_features, slow_features = cluster.trajectory_features([path, slow])
    assert abs(slow_features[-1] - fast_features[-1]) > 0.9
    slow_corner = np.abs(slow_features[:-1] - fast_features[:-1]).max()
    assert slow_corner < 1e-9


def test_moving_sees_arm_and_gripper():
    """A still arm with a closing gripper moves; a still arm with a still gripper does not."""
    state, mask = np.zeros((6, 26)), np.zeros(26, bool)
    mask[[10, 11, 12, 19]] = True
    assert not moving(state, mask, 20.0, 0.02).any()
    state[3:, 19] = 1.0
    assert moving(state, mask, 20.0, 0.02).tolist() == [False, False, True, False, False, False]
    state[2:, 10] = 0.01
    assert moving(state, mask, 20.0, 0.02)[1]


def test_black_borders_are_found():
    """Letterboxing is measured on each side; a dark frame inside the picture is none."""
    frames = np.full((8, 2, 10, 12, 3), 100, np.uint8)
    frames[:, 0, :3] = 2
    frames[:, 1, :, 10:] = 0
    frames[4] = 0
    assert black_borders(frames).tolist() == [[3, 0, 0, 0], [0, 0, 0, 2]]
