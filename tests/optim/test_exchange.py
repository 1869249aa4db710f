"""Muon on a mesh: each matrix on its owner, and the updates of one device."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


def test_owners_give_the_updates_of_one_device():
    """On 2 to 8 simulated devices, whatever axes cut the matrices (or, per head, their stack): the updates are those of
    one device within 1e-5 of their norm in fp32, and within .1 in bf16, to which blocks are then rounded before they
    are sent; momentum stays where the parameters are; no collective stands inside a loop, and at most three a group
    outside."""
    environment = os.environ | {"XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests/optim/owned_steps.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads(done.stdout.splitlines()[-1])
    assert len(cases) == 6
    for case in cases:
        assert case["gap"] < (0.1 if case["shape"] == [1, 4, 1, 2] else 1e-5), case
        assert case["inside"] == 0 and 1 <= case["outside"] <= 15, case
        assert case["moved"] == [], case
