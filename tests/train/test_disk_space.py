"""The room that a run asks for is the room that its checkpoints take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.test_checkpoint import RECORDS
from wallwm_jax.core.errors import InputError
from wallwm_jax.train.checkpoint import CheckpointStore
from wallwm_jax.train.disk_space import check_space, checkpoint_bytes
from wallwm_jax.train.state import TrainState


def test_room_on_the_disk_is_asked_for(tmp_path, monkeypatch):
    """Both numbers are named; what the run's checkpoints already take counts as room."""
    state, usage = jax.eval_shape(lambda: {"step": jnp.zeros(()), "weight": jnp.zeros((1000, 250))}), [2_000_000]
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": usage[0]}))
    with pytest.raises(InputError, match=r"found 2\.0 MB, expected 4\.6 MB or more, for 3 checkpoints of 1\.5 MB"):
        check_space(tmp_path, state, 2)
    (tmp_path / "old").write_bytes(bytes(2_600_000))
    check_space(tmp_path, state, 2)


STATES = {
    "few": lambda random: {"weight": random.normal(size=(700, 1000)).astype(np.float32)},
    "many": lambda random: {f"a_rather_long_name_{i}": random.normal(size=9).astype(np.float32) for i in range(300)},
    "bf16": lambda random: {f"{i}": jnp.asarray(random.normal(size=5000), jnp.bfloat16) for i in range(60)},
    "whole": lambda random: {f"{i}": random.integers(0, 2**31 - 1, size=40_000, dtype=np.int32) for i in range(20)},
    "zero": lambda random: {"weight": np.zeros((400, 1000), np.float32)},
}


@pytest.mark.parametrize("kind", STATES)
def test_a_checkpoint_takes_no_more_room_than_is_asked_for(tmp_path, kind):
    """Parameters, average and moments of arrays that compress well and badly, few and many: what is on the disk, in
    whole blocks and while nothing has been removed yet, is at most what `check_space` counts, for every checkpoint that
    it counts; and not much less where the numbers do not compress."""
    values = jax.tree.map(jnp.asarray, STATES[kind](np.random.default_rng(0)))

    def state(step):
        count = jnp.asarray(step, jnp.int32)
        return TrainState(count, count, count, values, values, {"momentum": values, "count": count})

    taken = []
    store = CheckpointStore(tmp_path, keep=2, before_commit=lambda step, folder: taken.append(_on_disk(tmp_path)))
    for step in (1, 2, 3):
        store.save(state(step), RECORDS, {})
    store.close()
    counted = checkpoint_bytes(state(0))
    assert taken[-1] <= 3 * counted and _on_disk(tmp_path / "3") <= counted
    if kind == "few":
        assert counted < 1.2 * _on_disk(tmp_path / "3")


def _on_disk(folder):
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*"))
