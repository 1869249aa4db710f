"""What a trained policy needs of a run's folder, and what is said when something is not there."""

import shutil

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.policy import Policy

ROBOT = {
    "front": np.full((16, 16, 3), 90, np.uint8),
    "wrist": np.full((16, 16, 3), 60, np.uint8),
    "state": [0.1, 0.0, 0.2, 1.0],
}


@pytest.fixture(scope="module")
def copied(run_folder, tmp_path_factory):
    """One step of stage action, copied without the rest of its run."""
    step = max((run_folder / "action" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    target = tmp_path_factory.mktemp("copied") / "action" / "checkpoints" / step.name
    shutil.copytree(step, target)
    return target


def test_event_mode_needs_one_checkpoint_and_nothing_else(run_folder, copied):
    """Statistics, embodiment, config and architecture are in its records: the same actions as from the run's own
    stage, and the sources that are missing say what they would need."""
    policies = [Policy.load(path) for path in (copied, run_folder / "action")]
    first, second = (policy.infer(ROBOT, caption="lift the puck").actions for policy in policies)
    np.testing.assert_array_equal(first, second)
    said = policies[0].describe()
    assert said["checkpoint"]["stage"] == "action" and said["checkpoint"]["step"] == int(copied.name)
    assert said["text sources"]["caption"] == "available" and "staircase" in said["text sources"]["latents"]
    assert policies[1].describe()["text sources"]["latents"] == "available"
    with pytest.raises(InputError, match=r"text_source: found 'latents'.*no finished stage 'staircase'"):
        Policy.load(copied, text_source="latents")


def test_a_run_gives_the_last_stage_that_a_mode_can_use(run_folder):
    """Stage adaptation for both modes, once it is finished; a policy of stage action is not asked for chunks."""
    for mode in ("event", "unified"):
        said = Policy.load(run_folder, mode=mode).describe()
        assert said["checkpoint"]["stage"] == "adaptation" and said["image size"] == (16, 16)
    with pytest.raises(InputError, match="found 'action', expected a checkpoint of stage 'adaptation', for unified"):
        Policy.load(run_folder / "action", mode="unified")


def test_a_run_without_its_tokenizer_has_no_latents(run_folder, tmp_path):
    """Captions and instructions remain; another tokenizer than training's is refused."""
    for stage in ("adaptation", "staircase"):
        shutil.copytree(run_folder / stage, tmp_path / stage)
    assert "no tokenizer" in Policy.load(tmp_path).describe()["text sources"]["planner"]
    (tmp_path / "curated").mkdir()
    (tmp_path / "curated" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: found another tokenizer"):
        Policy.load(tmp_path)
