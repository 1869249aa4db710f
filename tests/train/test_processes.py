"""Several processes of one run: they learn what one learns, stop together, and any number of them goes on."""

import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from wallwm_jax.train.checkpoint import committed_steps, read_arrays
from wallwm_jax.train.checksums import checksums, own_pieces, total
from wallwm_jax.train.manifest import read_manifest
from wallwm_jax.train.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]


def _train(directory, count, stopped=-1, mesh="host", **settings):
    """The outputs of `count` processes, as lines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    script = [sys.executable, str(ROOT / "tests/train/process_run.py")]
    commands = [
        [*script, str(n), str(count), port, str(directory), str(stopped), mesh, json.dumps(settings)]
        for n in range(count)
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment, "cwd": ROOT}
    processes = [subprocess.Popen(command, **pipes) for command in commands]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    wrong = [line for output in outputs for line in output.splitlines() if "rror" in line]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(wrong)
    return [output.splitlines() for output in outputs]


def _losses(directory):
    lines = read_metrics(directory / "metrics.jsonl")
    return [(line["step"], line["loss"], line["grad_norm"], line.get("heldout_loss", 0.0)) for line in lines]


def test_one_two_and_four_processes_learn_the_same(tmp_path):
    """On the same global batches, losses and gradient norms of all reported steps agree within 1e-5 (fp32 sums in
    another order); each draws the rows of a fresh parameter that are its own. Two processes of which one gets a signal
    stop together after one step, and four go on from there to what the others have learned, two and two of them with
    the same rows; among them, on one machine, they hash every file of the checkpoint once. A checkpoint of several
    processes has the checksums that one process finds, and so does one that several have read."""
    expected = [_train(tmp_path / str(count), count) for count in (1, 2)]
    assert all("left after step 12 " in line for outputs in expected for *_, line in outputs)
    first, second = _train(tmp_path / "run", 2, stopped=1)
    assert first[-1] == second[-1] and committed_steps(tmp_path / "run" / "checkpoints")[-1] < 12
    folder = tmp_path / "run" / "checkpoints" / str(committed_steps(tmp_path / "run" / "checkpoints")[-1])
    arrays, files = read_arrays(folder.parent)[1], read_manifest(folder)["files"]
    assert read_manifest(folder)["checksums"] == total([checksums(own_pieces(arrays))])
    outputs = _train(tmp_path / "run", 4, mesh="long_rows")
    assert all("left after step 12 " in line for *_, line in outputs)
    hashed = [[line.partition(" ")[2] for line in output if line.startswith("hashed ")] for output in outputs]
    assert sorted(itertools.chain(*hashed)) == sorted(str(folder / name) for name in files) and all(hashed)
    one, two, four = (_losses(tmp_path / name) for name in ("1", "2", "run"))
    assert len(one) == len(two) == len(four) > 3
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-5)


def test_damage_is_told_by_all_processes(tmp_path):
    """Whichever of them has read the file; nobody waits for one that has left."""
    _train(tmp_path, 2, steps=4)
    path = tmp_path / "checkpoints" / "4" / "statistics.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(AssertionError) as failed:
        _train(tmp_path, 2, steps=6)
    assert str(failed.value).count(f"InputError: checkpoint file {path}: found") == 2


def test_processes_stop_within_ten_seconds_of_a_signal(tmp_path):
    """Long before the next line of metrics, evaluation or save is due, which is when a run reads its devices' numbers
    anyway: both leave after the same step, with everything saved."""
    rare = dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), 900)
    first, second = _train(tmp_path, 2, stopped=1, steps=950, **rare)
    step = int(re.search(r"left after step (\d+) ", first[-1])[1])
    assert first[-1] == second[-1] and 5 <= step < 200
    assert float(re.search(r"left ([\d.]+) seconds after the signal", second[-2])[1]) < 10
    assert committed_steps(tmp_path / "checkpoints") == [step]
