"""Where inference finds a trained run: folders of every kind, and one line for what is not there."""

import json

import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.loading import TrainedRun
from wallwm_jax.train.manifest import MANIFEST


@pytest.fixture
def workdir(tmp_path):
    """A run of whose stages only the folders, and one step of stage action, are there."""
    step = tmp_path / "run" / "action" / "checkpoints" / "3"
    step.mkdir(parents=True)
    (step / MANIFEST).write_text("{}")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("path", "stage", "step"),
    [
        (".", None, None),
        ("action", "action", None),
        ("action/checkpoints", "action", None),
        ("action/checkpoints/3", "action", 3),
    ],
)
def test_a_run_is_found_by_any_of_its_folders(workdir, path, stage, step):
    """Itself, a stage, the stage's checkpoints, one step of them."""
    run = TrainedRun.find(workdir / path)
    assert (run.workdir, run.curated, run.stage, run.step) == (workdir, workdir / "curated", stage, step)


@pytest.mark.parametrize("path", ["nowhere", "action/checkpoints/3/state", "curated"])
def test_other_folders_are_refused(workdir, path):
    """What is no run says what would be one."""
    (workdir / "action" / "checkpoints" / "3" / "state").mkdir()
    (workdir / "curated").mkdir()
    with pytest.raises(InputError, match="expected a run's folder"):
        TrainedRun.find(workdir / path)


def test_a_checkpoint_must_say_its_stage(workdir):
    """A step that has been copied away from its stage's folder cannot be told from that of another stage."""
    other = workdir.parent / "copied" / "checkpoints"
    other.parent.mkdir()
    (workdir / "action" / "checkpoints").rename(other)
    with pytest.raises(InputError, match="stage: found 'copied', expected a folder named after one of"):
        TrainedRun.find(other / "3")


def test_a_stage_that_has_saved_nothing_is_not_finished(tmp_path):
    """Begun and interrupted before its first checkpoint, it is left out; asked for, it is missed by name."""
    run = TrainedRun(tmp_path, tmp_path / "curated")
    assert run.finished("adaptation") is None
    run.checkpoints("adaptation").mkdir(parents=True)
    assert run.finished("adaptation") is None and run.digest("adaptation") is None
    with pytest.raises(InputError, match="adaptation/checkpoints"):
        run.required("adaptation")
    with pytest.raises(InputError, match=r"checkpoint .*adaptation/checkpoints: found steps \[\].* for unified mode"):
        run.world(("adaptation",), "unified")


def test_a_mode_refuses_a_checkpoint_of_another_stage(workdir):
    """Unified mode needs stage adaptation, whatever else is there."""
    with pytest.raises(InputError, match="stage: found 'action', expected a checkpoint of stage 'adaptation'"):
        TrainedRun.find(workdir / "action").world(("adaptation",), "unified")


def test_what_the_vision_language_side_lacks_is_said_by_source(workdir):
    """Without its last stage neither latents nor planner can be had."""
    reasoning, missing = TrainedRun.find(workdir).reasoning()
    assert reasoning is None and set(missing) == {"latents", "planner"}
    assert "no finished stage 'staircase'" in missing["latents"]


def test_the_size_of_pictures_is_the_curated_datasets(workdir):
    """None where there is none."""
    run = TrainedRun.find(workdir)
    assert run.image_size is None
    run.curated.mkdir()
    (run.curated / "curation.json").write_text(json.dumps({"image_shape": [16, 24, 3]}))
    assert run.image_size == (16, 24)
