"""The robot boundary: encode then decode is the identity, and masked degrees of freedom never leak."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.embodiment import UNIFIED_NAMES, Embodiment
from wallwm_jax.data.statistics import Statistics, compute_statistics

TABLETOP = pathlib.Path(__file__).resolve().parents[2] / "data_specs/embodiments/tabletop.json"
BIMANUAL = Embodiment(
    "bimanual", 20.0, ("front",), "state", "action",
    state={name: name for name in UNIFIED_NAMES}, action={name: name for name in UNIFIED_NAMES},
)  # fmt: skip
values = st.floats(-3.0, 3.0, width=32)


def proper_rotations(poses: np.ndarray) -> np.ndarray:
    """Replaces both arms' 6-D rotations by rotation matrices' first columns, made from the numbers found there."""
    poses = poses.copy()
    for arm in (3, 13):
        numbers = poses[..., arm : arm + 6].reshape(*poses.shape[:-1], 2, 3) + np.array([[5.0, 0, 0], [0, 5.0, 0]])
        columns, _ = np.linalg.qr(np.swapaxes(numbers, -1, -2))
        poses[..., arm : arm + 6] = np.swapaxes(columns, -1, -2).reshape(*poses.shape[:-1], 6)
    return poses


def some_statistics(seed: int) -> Statistics:
    generator = np.random.default_rng(seed)
    return compute_statistics(generator.normal(size=(50, 26)), generator.normal(size=(50, 26)))


@settings(max_examples=40)
@given(poses=arrays(np.float32, (6, 26), elements=values), seed=st.integers(0, 20))
@pytest.mark.parametrize("embodiment", [BIMANUAL, Embodiment.load(TABLETOP)], ids=lambda e: e.name)
def test_decode_inverts_encode(embodiment, poses, seed):
    """decode(encode(actions)) is the actions on every commanded degree of freedom, rotations included. float32 in and
    out: 1e-5 is a few units in the last place of numbers up to about 10."""
    poses, statistics = proper_rotations(poses), some_statistics(seed)
    anchor, actions = poses[0], poses[1:]
    restored = embodiment.decode(embodiment.encode(anchor, actions, statistics), anchor, statistics)
    mask = embodiment.dof_mask
    np.testing.assert_allclose(restored[:, mask], actions[:, mask], atol=1e-5)
    assert (restored[:, ~mask] == anchor[~mask]).all()


def test_masked_degrees_of_freedom_are_exactly_zero():
    """What the embodiment does not command is 0 after encoding, whatever is recorded there."""
    embodiment, statistics = Embodiment.load(TABLETOP), some_statistics(0)
    poses = np.random.default_rng(1).normal(size=(5, 26)).astype(np.float32)
    encoded = embodiment.encode(poses[0], poses, statistics)
    assert embodiment.dof_mask.sum() == 4
    assert not encoded[:, ~embodiment.dof_mask].any()
    assert not embodiment.encode_state(poses[0], statistics)[~embodiment.dof_mask].any()


def test_positions_are_relative_and_grippers_absolute():
    """Moving anchor and actions together changes nothing; the gripper's command does not depend on the anchor."""
    embodiment, statistics = Embodiment.load(TABLETOP), some_statistics(0)
    poses = np.random.default_rng(1).normal(size=(5, 26)).astype(np.float32)
    moved = poses.copy()
    moved[:, 10:13] += [1.0, -2.0, 0.5]
    other_grip = poses[0].copy()
    other_grip[19] = 0.123
    before = embodiment.encode(poses[0], poses, statistics)
    np.testing.assert_allclose(embodiment.encode(moved[0], moved, statistics), before, atol=1e-5)
    np.testing.assert_array_equal(embodiment.encode(other_grip, poses, statistics), before)


def test_lift_places_entries_by_name():
    """Entries go where the embodiment says, whatever order the recording has them in; lower undoes it."""
    embodiment = Embodiment.load(TABLETOP)
    lifted = embodiment.lift_state(np.array([[0.9, 1.0, 2.0, 3.0]]), ("gripper", "x", "y", "z"))
    assert lifted[0, [10, 11, 12, 19]].tolist() == pytest.approx([1.0, 2.0, 3.0, 0.9])
    assert np.count_nonzero(lifted) == 4
    np.testing.assert_array_equal(embodiment.lower(embodiment.lift(np.array([[1, 2, 3, 0.5]]))), [[1, 2, 3, 0.5]])
    with pytest.raises(InputError, match="gripper"):
        embodiment.lift_state(np.zeros((1, 3)), ("x", "y", "z"))


def test_file_round_trip_and_bad_files(tmp_path):
    """save then load is the same embodiment; a missing field and an unknown slot are named."""
    embodiment = Embodiment.load(TABLETOP)
    embodiment.save(tmp_path / "saved.json")
    assert Embodiment.load(tmp_path / "saved.json") == embodiment
    content = json.loads(TABLETOP.read_text())
    (tmp_path / "bad.json").write_text(json.dumps({**content, "action": {"x": "right_arm.elbow"}}))
    with pytest.raises(InputError, match=r"right_arm\.elbow"):
        Embodiment.load(tmp_path / "bad.json")
    content.pop("views")
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"bad\.json"):
        Embodiment.load(tmp_path / "bad.json")


def test_statistics_map_percentiles_to_one_and_still_degrees_stay_finite():
    """q01 and q99 map to -1 and 1; a degree that never moves is centred instead of divided by nothing."""
    samples = np.random.default_rng(0).uniform(-1, 1, size=(1000, 26))
    samples[:, 5] = 0.25
    statistics = compute_statistics(samples, samples)
    normalised = statistics.normalise_action(samples)
    low, high = np.quantile(np.delete(normalised, 5, axis=1), [0.01, 0.99], axis=0)
    np.testing.assert_allclose(low, -1, atol=1e-9)
    np.testing.assert_allclose(high, 1, atol=1e-9)
    np.testing.assert_allclose(normalised[:, 5], 0, atol=1e-9)


def test_statistics_file_round_trip_and_digest(tmp_path):
    """Loading gives the same digest, and a changed value is noticed."""
    statistics = some_statistics(3)
    statistics.save(tmp_path / "statistics.json")
    loaded = Statistics.load(tmp_path / "statistics.json")
    assert loaded.digest == statistics.digest != some_statistics(4).digest
    content = json.loads((tmp_path / "statistics.json").read_text())
    content["state_low"][0] += 1.0
    (tmp_path / "statistics.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="digest"):
        Statistics.load(tmp_path / "statistics.json")
