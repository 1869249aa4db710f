"""Checkpoints: what is saved comes back bit for bit, and nothing else is taken for it."""

import hashlib
import os
import pathlib
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.trees import digest
from wallwm_jax.train import checkpoint
from wallwm_jax.train.checkpoint import (
    CheckpointStore,
    Records,
    check_all_committed,
    committed_steps,
    latest_records,
    read_arrays,
    read_checkpoint,
)
from wallwm_jax.train.manifest import UNCOMMITTED
from wallwm_jax.train.state import TrainState

RECORDS = Records({"seed": 1}, {"low": [0.5]}, {"views": ["front"]}, {"embed": 8})


def _state(step, fill=1.0, width=64):
    count = jnp.asarray(step, jnp.int32)
    noise = jnp.asarray(np.random.default_rng(step).normal(size=(64, 512)), jnp.float32)  # does not compress
    values = {"noise": noise, "video": {"weight": jnp.full((8, width), fill)}, "action": {"bias": jnp.arange(4.0)}}
    average = {"video": {"weight": jnp.full((8, width), -fill)}}
    return TrainState(count, count, count, values, average, (average, {}))


@pytest.fixture
def saved(tmp_path):
    """A directory with steps 3 and 6."""
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (3, 6):
        store.save(_state(step, float(step)), RECORDS, {"window": [], "seconds": 1.5})
    store.close()
    return tmp_path / "checkpoints"


def test_round_trip_and_average(saved):
    """Restoring gives the same bits and progress; reading merges the average over what it covers."""
    store = CheckpointStore(saved)
    state, records, progress = store.restore(_state(0), {"embed": 8})
    store.close()
    assert digest(state) == digest(_state(6, 6.0)) and records == RECORDS and progress["seconds"] == 1.5
    found = read_checkpoint(saved)
    np.testing.assert_array_equal(found.averaged["video"]["weight"], np.full((8, 64), -6.0))
    np.testing.assert_array_equal(found.averaged["action"]["bias"], np.arange(4.0))
    np.testing.assert_array_equal(read_checkpoint(saved, 3).parameters["video"]["weight"], np.full((8, 64), 3.0))
    assert latest_records(saved) == RECORDS and latest_records(saved.parent / "none") is None


def test_missing_checkpoints_are_named(saved, tmp_path):
    """No directory, an empty one, and a step that was never saved; reading creates nothing."""
    with pytest.raises(InputError, match="no such directory"):
        read_checkpoint(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a saved step"):
        read_checkpoint(tmp_path / "empty")
    with pytest.raises(InputError, match=r"steps \[3, 6\], expected step 4"):
        read_checkpoint(saved, 4)


def test_another_shape_is_named_before_anything_is_read(saved):
    """A wider model names the array, both shapes and the directory."""
    store = CheckpointStore(saved)
    with pytest.raises(InputError, match=r"video/weight: found float32\[8, 64\], expected float32\[8, 32\]"):
        store.restore(_state(0, width=32), {"embed": 8})
    with pytest.raises(InputError, match=r"model\.embed: found 8, expected 16"):
        store.restore(_state(0), {"embed": 16})
    store.close()


@pytest.mark.parametrize("damage", ["cut", "removed", "added", "manifest", "unlisted"])
def test_damage_is_named(saved, damage):
    """A cut, missing or additional file and a broken or missing manifest each give one message naming the place, also
    where only the JSON is read. Flipped bits are for test_faults."""
    step, name = saved / "6", "statistics.json"
    path = {"manifest": step / "manifest.json", "unlisted": step / "manifest.json"}.get(damage, step / name)
    if damage == "added":
        (step / "state" / "other").write_text("")
        with pytest.raises(InputError, match=r"6/state/other: found 0 bytes .*, expected no such file"):
            read_checkpoint(saved)
        return
    {
        "cut": lambda: path.write_bytes(path.read_bytes()[:5]),
        "removed": path.unlink,
        "manifest": lambda: path.write_text('{"arrays": {'),
        "unlisted": lambda: path.write_text('{"digest": "0"}'),
    }[damage]()
    for read in (read_checkpoint, latest_records):
        with pytest.raises(InputError, match=rf"checkpoint file .*6/{path.name}"):
            read(saved)


def test_a_step_is_there_when_its_manifest_is(saved):
    """What a save or a removal that was cut off has left, at any point, is no step and is cleared away; a step that has
    lost its manifest is none either, and going on beside it is refused. One that was committed last thing stays."""
    whole = read_arrays(saved, 6)[1]
    (saved / "6" / UNCOMMITTED).touch()
    for step in (9, 10, 11):
        (saved / str(step)).mkdir()
    for step in (9, 10):
        (saved / str(step) / UNCOMMITTED).touch()
    (saved / "9" / "state").mkdir()
    (saved / "9" / "config.json").write_text("{}")
    check_all_committed(saved)
    (saved / "8").mkdir()
    (saved / "8" / "config.json").write_text("{}")
    assert committed_steps(saved) == [3, 6]
    assert digest(read_arrays(saved, 6)[1]) == digest(whole)
    store = CheckpointStore(saved)
    assert store.latest_step() == 6 and sorted(path.name for path in saved.iterdir()) == ["3", "6", "8"]
    assert not (saved / "6" / UNCOMMITTED).exists()
    store.close()
    with pytest.raises(InputError, match=r"checkpoints/8: found no manifest\.json, expected a whole step"):
        check_all_committed(saved)


def test_a_folder_that_is_being_cleared_away_is_no_lost_step(saved, monkeypatch):
    """The first process of a run removes what was interrupted while the others look for steps that have lost their
    manifest: one that is gone when they come to it is none of these."""
    gone = [saved / "3", saved / "9"]
    monkeypatch.setattr(checkpoint, "_step_folders", lambda directory: gone)
    check_all_committed(saved)


def test_no_folder_is_renamed(tmp_path, monkeypatch):
    """An object store renames a folder file by file, and not at once: a save and the removal of an old step do without.
    Files may be renamed, which is one operation there."""
    replace, rename = os.replace, os.rename

    def only_files(function):
        def checked(source, target, **options):
            assert not os.path.isdir(source), f"{source} -> {target}"
            return function(source, target, **options)

        return checked

    monkeypatch.setattr("os.replace", only_files(replace))
    monkeypatch.setattr("os.rename", only_files(rename))
    store = CheckpointStore(tmp_path, keep=1)
    for step in (3, 6):
        store.save(_state(step), RECORDS, {})
    store.close()
    assert committed_steps(tmp_path) == [6] and [path.name for path in tmp_path.iterdir()] == ["6"]
    assert digest(read_arrays(tmp_path)[1]["parameters/noise"]) == digest(_state(6).parameters["noise"])


class Died(BaseException):
    """Stands for the death of the process."""


def _dying(function, left):
    """The function, which is not called any more when it is called for the `left[0]`-th time on a file of step 3."""

    def call(path, *arguments, **options):
        left[0] -= pathlib.Path(path).parent.name == "3"
        if not left[0]:
            raise Died
        return function(path, *arguments, **options)

    return call


def test_an_interrupted_removal_is_gone_on_with(saved, monkeypatch):
    """Whatever file it had come to when the process died: the step is whole if that was the first one, or else it is
    none and is cleared away."""
    count = len(list((saved / "3").iterdir()))
    for number in range(1, count + 2):
        folder, left = saved.parent / str(number) / "checkpoints", [number]
        shutil.copytree(saved, folder)
        store = CheckpointStore(folder)
        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "unlink", _dying(pathlib.Path.unlink, left))
            patch.setattr(shutil, "rmtree", _dying(shutil.rmtree, left))
            with pytest.raises(Died):
                store._remove(folder / "3")
        expected = [3, 6] if number == 1 else [6]
        assert committed_steps(folder) == expected and (folder / "3").is_dir()
        CheckpointStore(folder).close()
        assert sorted(child.name for child in folder.iterdir()) == [str(step) for step in expected]
        assert [read_checkpoint(folder, step).step for step in expected] == expected
        check_all_committed(folder)


def test_what_is_saved_is_summed_in_the_background(tmp_path, monkeypatch):
    """The main thread, which trains, neither hashes nor sums the state; what it saved is checked all the same."""
    threads = []
    for module, name in ((hashlib, "sha256"), (hashlib, "file_digest"), (checkpoint, "checksums")):
        function = getattr(module, name, None)

        def noted(*arguments, function=function, name=name):
            threads.append((name, threading.current_thread() is threading.main_thread()))
            return function(*arguments)

        monkeypatch.setattr(module, name, noted, raising=False)
    store = CheckpointStore(tmp_path)
    store.save(_state(3), RECORDS, {})
    store.wait()
    assert {name for name, _ in threads} >= {"sha256", "file_digest"} and not any(main for _, main in threads)
    store.close()


def test_another_array_than_was_trained_is_named(tmp_path, monkeypatch):
    """Files that are what was written and hold another number than the state did."""
    written = ocp.AsyncCheckpointer.save

    def another(self, path, args):
        args.item["parameters"]["video"]["weight"] = args.item["parameters"]["video"]["weight"].at[3, 5].add(1e-6)
        return written(self, path, args=args)

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", another)
    store = CheckpointStore(tmp_path)
    store.save(_state(3), RECORDS, {})
    store.close()
    with pytest.raises(InputError, match=r"3/state: parameters/video/weight: found another array than was saved"):
        read_checkpoint(tmp_path)


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    """What is read is what the state held when it was saved, although its buffers went into further steps at once."""
    onward = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    store, wanted = CheckpointStore(tmp_path, keep=5), {}
    state = onward(jax.tree.map(jnp.copy, _state(0)))
    for _ in range(4):
        wanted[int(state.step)] = digest(state)
        store.save(state, RECORDS, {})
        for _ in range(3):
            state = onward(state)
    store.wait()
    for step, expected in wanted.items():
        assert digest(store.restore(_state(0), {"embed": 8}, step)[0]) == expected
    store.close()


def test_progress_is_that_of_the_moment(tmp_path):
    """The caller may go on changing what it passed."""
    store, progress = CheckpointStore(tmp_path), {"window": [1.0]}
    store.save(_state(3), RECORDS, progress)
    progress["window"].append(2.0)
    store.wait()
    assert store.restore(_state(0), {"embed": 8})[2] == {"window": [1.0]}
    store.close()


def test_a_failed_save_is_told_and_leaves_no_step(saved):
    """It is told once, by whichever call comes first, naming the file; the steps before it stay, and a later save
    succeeds."""

    def fail(step, folder):
        if step == 9:
            raise OSError(28, "No space left on device", str(folder / "manifest.json"))

    for told in ("wait", "close", "save"):
        store = CheckpointStore(saved, before_commit=fail)
        store.save(_state(9), RECORDS, {})
        arguments = (_state(12), RECORDS, {}) if told == "save" else ()
        with pytest.raises(RunError, match=r"/9 could not be saved \(OSError.*/9/manifest\.json"):
            getattr(store, told)(*arguments)
        assert committed_steps(saved) == [3, 6]
    store.check()
    store.save(_state(12), RECORDS, {})
    store.close()
    assert committed_steps(saved) == [6, 12]


def test_old_steps_go_only_when_the_new_one_is_there(saved):
    """The newest `keep` are kept, and while a step is being written all that there were."""
    seen = []
    store = CheckpointStore(saved, keep=1, before_commit=lambda step, folder: seen.append(committed_steps(saved)))
    store.save(_state(9), RECORDS, {})
    store.close()
    assert seen == [[3, 6]] and committed_steps(saved) == [9]


def test_accepted_changes_convert_and_begin_anew(saved):
    """An accepted dtype converts the arrays; an accepted model keeps those that fit and takes the others from the fresh
    state. Neither is accepted for the other."""
    store = CheckpointStore(saved)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim else leaf, _state(0))
    wide = _state(0, fill=5.0, width=96)
    for target, accept in ((half, ["model"]), (wide, ["dtype"])):
        with pytest.raises(InputError, match=r"parameters/(action/bias|video/weight): found float32"):
            store.restore(target, {"embed": 8}, accept=accept, fresh=lambda: wide)
    state, _, _ = store.restore(half, {"embed": 8}, accept=["dtype"])
    np.testing.assert_array_equal(state.parameters["video"]["weight"], np.full((8, 64), 6.0, jnp.bfloat16))
    assert state.parameters["video"]["weight"].dtype == jnp.bfloat16
    state, _, _ = store.restore(wide, {"embed": 16}, accept=["model"], fresh=lambda: wide)
    np.testing.assert_array_equal(state.parameters["video"]["weight"], np.full((8, 96), 5.0))
    np.testing.assert_array_equal(state.parameters["noise"], _state(6).parameters["noise"])
    store.close()
