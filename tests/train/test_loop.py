"""What a stage may start from."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.train.checkpoint import CheckpointStore, Records
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.loop import starting_parameters
from wallwm_jax.train.stages import without_absent
from wallwm_jax.train.state import TrainState

CONFIG = {
    "seed": 0,
    "mesh": "laptop",
    "data": {"rows": 4},
    "model": {"variant": "micro"},
    "stages": {"video": {"steps": 6, "learning_rate": 0.1, "log_every": 10}, "action": {"steps": 3}},
}
RECORDS = Records(CONFIG, {"low": [0.5]}, {}, {"views": 2})


def _save(workdir, step):
    """A checkpoint of stage 1 whose average is the negative of its parameters."""
    store, count = CheckpointStore(workdir / "video" / "checkpoints"), jnp.asarray(step, jnp.int32)
    video, action = {"weight": jnp.full((2, 3), 2.0)}, {"weight": jnp.full(4, 3.0)}
    average = {"video": {"weight": jnp.full((2, 3), -2.0)}}
    store.save(TrainState(count, count, count, {"video": video, "action": action}, average, {}), RECORDS, {})
    store.close()


def test_stage_2_starts_from_the_averages_of_a_finished_stage_1(tmp_path):
    """The frozen video tower is stage 1's average, the rest stage 1's own; stage 1 itself starts fresh."""
    _save(tmp_path, 6)
    fresh = {"video": {"weight": jnp.zeros((2, 3))}}
    assert starting_parameters(stage_of("video"), tmp_path, RECORDS, lambda: fresh) is fresh
    found = starting_parameters(stage_of("action"), tmp_path, RECORDS, lambda: fresh)
    np.testing.assert_array_equal(found["video"]["weight"], np.full((2, 3), -2.0))
    np.testing.assert_array_equal(found["action"]["weight"], np.full(4, 3.0))


def test_a_part_may_start_as_a_copy_of_another(tmp_path):
    """Stage 2's keyframe reader starts as stage 1 left the waypoints', which itself stays; without one all is kept."""
    reader = {"waypoint_head": {"keyframe_reader": {"weight": jnp.ones(2)}, "other": jnp.zeros(1)}}
    action = {"keyframe_reader": {"weight": jnp.zeros(2)}, "head": jnp.zeros(3)}
    stage = dataclasses.replace(stage_of("action"), starts_from=None)
    found = starting_parameters(stage, tmp_path, RECORDS, lambda: {"video": reader, "action": action})
    np.testing.assert_array_equal(found["action"]["keyframe_reader"]["weight"], np.ones(2))
    assert found["action"]["head"] is action["head"] and found["video"] is reader
    bare = {"video": {"weight": jnp.zeros(2)}, "action": {"weight": jnp.zeros(2)}}
    assert starting_parameters(stage, tmp_path, RECORDS, lambda: bare) is bare
    unread = {"video": reader, "action": {"head": jnp.zeros(3)}}
    assert starting_parameters(stage, tmp_path, RECORDS, lambda: unread) is unread


def test_a_stage_trains_the_towers_that_a_model_has():
    """Stage 2 trains the duration head where there is one; of its other towers none may be missing."""
    whole, without = {"action": {}, "duration": {}, "video": {}}, {"duration": {}, "video": {}}
    stage = stage_of("action")
    assert without_absent(stage, whole).trains == {"action", "duration"}
    assert without_absent(stage, {"action": {}, "video": {}}).trains == {"action"}
    assert without_absent(stage, without).trains == {"action", "duration"}


def test_stage_2_refuses_what_is_missing_unfinished_or_other(tmp_path):
    """Each says which checkpoint it looked at and what is wrong with it."""
    with pytest.raises(InputError, match=r"video/checkpoints.*no such directory"):
        starting_parameters(stage_of("action"), tmp_path, RECORDS, dict)
    _save(tmp_path, 4)
    with pytest.raises(InputError, match=r"step 4 of 6, expected a finished stage"):
        starting_parameters(stage_of("action"), tmp_path, RECORDS, dict)
    with pytest.raises(InputError, match=r"model\.views: found 2, expected 3"):
        starting_parameters(stage_of("action"), tmp_path, RECORDS._replace(model={"views": 3}), dict)
    _save(tmp_path, 6)
    for name in ("statistics", "embodiment"):
        other = RECORDS._replace(**{name: {"low": [0.4]}})
        with pytest.raises(InputError, match=rf"video/checkpoints: {name}\.low.*--accept-change {name}"):
            starting_parameters(stage_of("action"), tmp_path, other, dict)
        assert starting_parameters(stage_of("action"), tmp_path, other, dict, [name])
