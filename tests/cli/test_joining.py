"""The command line of several processes: together they train what one trains, or say who is missing or different."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.cli.test_pipeline import arguments
from tests.data import lerobot_fixture
from wallwm_jax.cli.main import main
from wallwm_jax.train.checkpoint import read_checkpoint
from wallwm_jax.train.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(commands, port, patience):
    """(exit code, stderr) of one process for each command line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, "cwd": ROOT}
    start = "import sys; from wallwm_jax.cli.main import main; sys.exit(main())"
    processes = []
    for number, command in enumerate(commands):
        group = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(number)]
        line = [sys.executable, "-c", start, *command, *group, "--patience", str(patience)]
        processes.append(subprocess.Popen(line, **pipes))
    outputs = [process.communicate(timeout=600)[1] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_two_processes_train_what_one_trains(tmp_path, port):
    """A stage of each side, each process with its half of every batch: the losses of all steps and what has been
    learned are those of one process within 1e-5 (fp32 sums in another order)."""
    dataset = lerobot_fixture.write_dataset(tmp_path / "toy", lerobot_fixture.toy_episodes(4))
    watched = {"video": ("video", "waypoint_head", "keyframe_reader"), "backbone": ("trunk",)}
    found = []
    for name in ("one", "two"):
        workdir = tmp_path / name
        assert main(arguments("curate", dataset, workdir)) == 0
        learned = []
        for number, (stage, path) in zip(("1", "0"), watched.items(), strict=True):
            command = [*arguments("train", dataset, workdir, "mesh=host"), "--stage", number]
            if name == "one":
                assert main(command) == 0
            else:
                assert [code for code, _ in together([command, command], port, 120)] == [0, 0]
            learned.append([line["loss"] for line in read_metrics(workdir / stage / "metrics.jsonl")])
            part = read_checkpoint(workdir / stage / "checkpoints").parameters
            for key in path:
                part = part[key]
            learned += jax.tree.leaves(part)
        found.append(learned)
    assert len(found[0][0]) == 3
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)


def test_who_is_missing_or_different_is_named(tmp_path, port):
    """Within the patience, by both, with code 1; and options that cannot be are bad input."""
    command = [*arguments("train", tmp_path, tmp_path), "--stage", "1"]
    ((code, error),) = together([command], port, 1)
    assert code == 1 and error == "wallwm train: processes [1] of 2 did not come within 1 s\n"
    for code, error in together([command, [*command, "--set", "seed=1"]], port, 60):
        assert code == 1 and "process 1: config: found" in error and "as process 0 has it" in error
    assert main([*command, "--processes", "2"]) == 2
