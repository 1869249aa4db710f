"""A finished run for the scripts that start from one: all six stages on a toy dataset, a few steps each."""

import pytest

from tests.cli.test_pipeline import FREEZE, RECIPE, arguments
from tests.data import lerobot_fixture
from wallwm_jax.cli.main import main


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """The folder that curating and training leave; its programs are those of the command line's own tests."""
    root = tmp_path_factory.mktemp("journeys")
    dataset = lerobot_fixture.write_dataset(root / "toy", lerobot_fixture.toy_episodes(4))
    assert main(arguments("curate", dataset, root / "run", RECIPE, FREEZE)) == 0
    for stage in (1, 2, 0, 3, 4, 5):
        assert main([*arguments("train", dataset, root / "run", RECIPE, FREEZE), "--stage", str(stage)]) == 0
    return root / "run"
