"""`wallwm ckpt` and `wallwm replay`, from the command line to the exit code."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from tests.train.test_fit import Silent
from tests.train.toy import toy_data, toy_family, toy_run, toy_start
from wallwm_jax.cli.main import main
from wallwm_jax.cli.replaying import replay
from wallwm_jax.core.errors import RunError
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.train.checkpoint import CheckpointStore, Records, read_checkpoint
from wallwm_jax.train.families import FAMILIES
from wallwm_jax.train.faults import Fault
from wallwm_jax.train.fit import fit
from wallwm_jax.train.state import TrainState

RECORDS = Records({"seed": 1, "data": {"rows": 4}}, {"low": [0.5]}, {"views": ["front"]}, {"embed": 8})


def _save(directory, *, fill=2.0, width=3, records=RECORDS, steps=(3, 6)):
    store = CheckpointStore(directory)
    for step in steps:
        count, weight = jnp.asarray(step, jnp.int32), jnp.full((4, width), fill)
        parameters, average = {"tower": {"weight": weight}, "head": jnp.ones(2)}, {"tower": {"weight": -weight}}
        store.save(TrainState(count, count, count, parameters, average, {}), records, {})
    store.close()
    return directory


def test_verify_names_every_damaged_file(tmp_path, capsys):
    """Code 0 and a line a step for what is whole; code 1 and every damaged file, of a step or of all of them; code 2
    where there is nothing to verify."""
    directory = _save(tmp_path / "checkpoints")
    assert main(["ckpt", "verify", str(directory)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{directory}/{step}: as it was saved" for step in (3, 6)]
    for name in ("config.json", "model.json"):
        (directory / "6" / name).write_text("{}")
    assert main(["ckpt", "verify", str(directory)]) == 1
    output = capsys.readouterr().out
    assert output.count("checkpoint file") == 2 and f"{directory}/6: 2 damaged" in output
    assert all(f"{directory}/6/{name}: found 2 bytes" in output for name in ("config.json", "model.json"))
    assert main(["ckpt", "verify", str(directory / "3")]) == 0
    (directory / "3" / "manifest.json").write_text("{}")
    assert main(["ckpt", "verify", str(directory / "3")]) == 1
    assert "3/manifest.json" in capsys.readouterr().out
    assert main(["ckpt", "verify", str(tmp_path)]) == 2
    assert "no saved step" in capsys.readouterr().err


def test_diff_says_what_differs(tmp_path, capsys):
    """Code 0 for the same; else 1, and every array with shape, dtype and the largest difference, and every field."""
    first, same = (_save(tmp_path / name) for name in ("first", "same"))
    assert main(["ckpt", "diff", str(first), str(same)]) == 0
    assert capsys.readouterr().out == "no difference\n"
    config = RECORDS._replace(config={"seed": 1, "data": {"rows": 8}})
    other = _save(tmp_path / "other", fill=2.5, records=config, steps=(6,))
    assert main(["ckpt", "diff", str(first), str(other)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "average/tower/weight: float32[4, 3], largest difference 0.5",
        "parameters/tower/weight: float32[4, 3], largest difference 0.5",
        "config.data.rows: 4 -> 8",
    ]
    wide = _save(tmp_path / "wide", width=5)
    assert main(["ckpt", "diff", str(first / "3"), str(wide)]) == 1
    output = capsys.readouterr().out
    assert "step: 3 -> 6" in output and "parameters/tower/weight: float32[4, 3] -> float32[4, 5]" in output


@pytest.mark.parametrize("averaged", [False, True])
def test_exported_parameters_are_the_checkpoint_s(tmp_path, capsys, averaged):
    """Names, bits, step, architecture and statistics, read by safetensors alone."""
    directory, output = _save(tmp_path / "checkpoints"), tmp_path / "out" / "model.safetensors"
    options = ["--averaged"] if averaged else []
    assert main(["ckpt", "export", str(directory), "--output", str(output), *options]) == 0
    assert "2 averaged arrays" if averaged else "2 raw arrays" in capsys.readouterr().out
    checkpoint = read_checkpoint(directory)
    expected = named_leaves(checkpoint.averaged if averaged else checkpoint.parameters)
    with safe_open(output, "numpy") as file:
        assert set(file.keys()) == set(expected)
        for name, leaf in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), leaf)
        metadata = file.metadata()
    assert metadata["step"] == "6" and json.loads(metadata["averaged"]) is averaged
    assert json.loads(metadata["model"]) == RECORDS.model
    assert json.loads(metadata["statistics"]) == RECORDS.statistics
    assert output.stat().st_mode == (directory / "6" / "config.json").stat().st_mode
    assert main(["ckpt", "export", str(directory), "--output", str(tmp_path / "model.npz")]) == 2


def test_replay_says_what_was_not_finite(tmp_path, capsys):
    """With the path that the run named: stage, step, fault, losses then and now, and the gradients; code 0. Code 2 for
    a path that is none."""
    run = toy_run(tmp_path, Fault.parse("nan@step=3,count=2"), stop_after_skipped=2)
    with pytest.raises(RunError) as told:
        fit(run, toy_start(), toy_data(), Silent())
    command, path = str(told.value).split("`")[1].split()[1:]
    assert command == "replay" and replay(path, (*FAMILIES, toy_family())) == 0
    output = capsys.readouterr().out
    assert "stage toy, step 4, with the fault nan@step=3,phase=step,count=2 on purpose" in output
    assert (
        "grad_norm: nan (then nan)" in output and "gradients that are not finite: linear/bias, linear/weight" in output
    )
    assert "parameters that are not finite: none" in output and output.endswith("the same again\n")
    assert main(["replay", str(tmp_path)]) == 2
