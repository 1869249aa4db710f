"""Rerun recordings hold every picture and path, where Rerun is installed; where it is not, the message says so."""

import builtins
import subprocess

import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.rerun_export import check_installed, write_closed_loop, write_rollouts


def _print(path):
    return subprocess.run(["rerun", "rrd", "print", str(path)], capture_output=True, text=True, check=True).stdout


def test_everything_is_in_the_recording(evaluation, tmp_path):
    """Entities of both modes' views, paths, curves and texts; and a film of a success and of a failure."""
    pytest.importorskip("rerun")
    result = evaluation(16)
    write_rollouts(result.rollouts, tmp_path / "rollouts.rrd")
    found = _print(tmp_path / "rollouts.rrd")
    for mode in ("event_mode", "unified_mode"):
        names = [f"{view}/{kind}" for view in ("front", "topview", "wrist") for kind in ("recorded", "dreamt")]
        for name in (*names, "world/recorded", "world/predicted", "curves/predicted/gripper", "text"):
            assert f"/{mode}/{name}" in found
    write_closed_loop(result.closed_loop, tmp_path / "closed_loop.rrd")
    found = _print(tmp_path / "closed_loop.rrd")
    assert "/tours/event_mode/success" in found and "/tours/event_mode/failure" in found


def test_without_rerun_the_message_names_the_extra(monkeypatch):
    """Before anything is evaluated."""
    plain = builtins.__import__

    def without(name, *rest):
        if name == "rerun":
            raise ImportError(name="rerun")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"--rerun: found rerun is not installed, expected pip install"):
        check_installed()
