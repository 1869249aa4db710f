"""The reader gives back what was recorded."""

import lerobot_fixture as toy
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.episodes.lerobot import open_dataset

SLOTS = [10, 11, 12, 19]


@pytest.fixture(scope="module")
def dataset(dataset_root):
    return open_dataset(dataset_root, Embodiment.load(dataset_root / "embodiment.json"))


def test_numbers_and_annotations_are_those_recorded(dataset):
    """State, action, cameras, captions and events of every episode, in the unified layout."""
    for position, recorded in zip(dataset.episodes(), toy.toy_episodes(8), strict=True):
        episode = dataset.episode(position)
        np.testing.assert_array_equal(episode.state[:, SLOTS], recorded.state)
        np.testing.assert_array_equal(episode.action[:, SLOTS], recorded.action)
        assert not np.delete(episode.state, SLOTS, axis=1).any()
        found = [(e.start, e.end, e.caption, e.verb, e.object) for e in episode.events]
        assert found == recorded.events
        assert [c.text for c in episode.captions] == ["tidy the table", *(e[2] for e in recorded.events)]
        assert dataset.records[position].split == recorded.split
        np.testing.assert_allclose(episode.extrinsics[:, 0, 0, 3], np.arange(recorded.length) / 100, atol=1e-6)
        assert episode.intrinsics[0, 1, 0, 0] == 21.0


def test_frames_are_the_ones_asked_for(dataset):
    """Random access across key frames and episode borders, with repeats; colours within the codec's loss (8 of 255)."""
    for position in (0, 3, 7):
        last = dataset.records[position].length - 1
        indices = [last, 0, 7, 7]
        frames = dataset.frames(position, indices).astype(int)
        for image, index in zip(frames, indices, strict=True):
            for view in range(2):
                assert np.abs(image[view] - toy.picture(position, index, view)).mean() < 8
    only_wrist = dataset.frames(0, [0], views=["wrist"]).astype(int)
    assert only_wrist.shape == (1, 1, toy.SIZE, toy.SIZE, 3)
    assert np.abs(only_wrist[0, 0] - toy.picture(0, 0, 1)).mean() < 8


def test_frames_outside_the_episode_are_refused(dataset):
    """The next episode's frames lie behind this one's in the same file, and must not be reachable."""
    with pytest.raises(InputError, match="episode 0"):
        dataset.frames(0, [dataset.records[0].length])
