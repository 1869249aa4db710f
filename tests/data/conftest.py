"""One toy dataset and its curated form, shared by the tests of data/."""

import pathlib
import sys

import pytest

from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.curate import CurationSettings, curate

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import lerobot_fixture

CURATION = CurationSettings(vision_language_clusters=4, action_clusters=4, text_length=24)


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory) -> pathlib.Path:
    return lerobot_fixture.write_dataset(tmp_path_factory.mktemp("lerobot") / "toy", lerobot_fixture.toy_episodes(8))


@pytest.fixture(scope="session")
def curated_root(dataset_root, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("curated") / "toy"
    curate(dataset_root, output, dataset_root / "embodiment.json", CURATION)
    return output


@pytest.fixture(scope="session")
def curated(curated_root) -> CuratedDataset:
    return CuratedDataset.open(curated_root)
