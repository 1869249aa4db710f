"""Several processes of one run stop together."""

import os
import pathlib
import socket
import subprocess
import sys

from wallwm_jax.train.checkpoint import committed_steps

ROOT = pathlib.Path(__file__).parents[2]


def _train(directory, stopped):
    """The last line of output of both processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    script = str(ROOT / "tests/train/two_processes.py")
    commands = [[sys.executable, script, str(number), port, str(directory), str(stopped)] for number in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment, "cwd": ROOT}
    processes = [subprocess.Popen(command, **pipes) for command in commands]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [output.splitlines()[-1] for output in outputs]


def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    """They save that step together, and go on from there to what an uninterrupted pair would have learned."""
    first, second = _train(tmp_path / "run", stopped=1)
    assert first == second and committed_steps(tmp_path / "run" / "checkpoints")[-1] < 12
    resumed = _train(tmp_path / "run", stopped=-1)
    assert resumed == _train(tmp_path / "whole", stopped=-1)
    assert resumed[0] == resumed[1] and "left after step 12 " in resumed[0]
