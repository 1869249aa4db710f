"""Two writers never share a directory."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.train.test_fit import Silent
from tests.train.toy import toy_data, toy_run, toy_start
from wallwm_jax.core.errors import InputError
from wallwm_jax.train.fit import fit
from wallwm_jax.train.lock import DirectoryLock


def test_the_second_run_is_refused_before_it_touches_anything(tmp_path):
    """It says which process on which host is there; when that has left, it may begin."""
    with DirectoryLock(tmp_path):
        holder = rf"found process {os.getpid()} on host {socket.gethostname()} writing there"
        with pytest.raises(InputError, match=holder):
            fit(toy_run(tmp_path), toy_start(), toy_data(), Silent())
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    with DirectoryLock(tmp_path / "other"), DirectoryLock(tmp_path):
        pass


HOLD = """
import sys
from wallwm_jax.train.lock import DirectoryLock
with DirectoryLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_holder_holds_nothing(tmp_path):
    """The kernel releases the lock of a process that was killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {process.pid} on"), DirectoryLock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with DirectoryLock(tmp_path):
        pass
