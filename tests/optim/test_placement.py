"""Muon on a user's own mesh: any axes, Auto or Explicit, with the leaves' own shardings."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from wallwm_jax.core.errors import InputError
from wallwm_jax.optim import muon

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"


@pytest.fixture(scope="module")
def cases():
    environment = os.environ | {"XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.optim.foreign_meshes"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_updates_are_those_of_one_device(cases):
    """On ("data", "model") and ("fsdp",), Auto and Explicit, stacks, matrices and convolutions cut along any of their
    axes: updates within 1e-5 of one device's norm, no collective inside a loop, and at most three a group outside;
    updates and momentum lie as the leaves do."""
    assert len(cases) == 4
    for case in cases:
        assert case["gap"] < 1e-5, case
        assert case["inside"] == 0 and 1 <= case["outside"] <= 12, case
        assert case["moved"] == [], case


def test_no_mesh_is_said(cases):
    """Without a mesh, sharded leaves are warned of once on Auto axes, and refused on Explicit ones by one line."""
    for case in cases:
        said = case["without a mesh"]
        if "Auto" in case["case"][1]:
            assert said.count("mesh=None") == 1 and "refused" not in said, case
        else:
            assert said.startswith("refused: muon mesh") and "explicit axes" in said and "\n" not in said, case


def test_a_sharding_that_jit_hides_is_asked_for(cases):
    """A step on Auto axes that is told a mesh and no shardings names the argument."""
    hidden = [case["hidden"] for case in cases if "Auto" in case["case"][1]]
    assert len(hidden) == 2 and all("shardings=" in said and "\n" not in said for said in hidden)


def test_what_the_mesh_does_not_have_is_refused():
    """Owners, or axes of a sharding, that are no axes of the mesh; owners without a mesh."""
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(AxisType.Auto,))
    with pytest.raises(InputError, match="muon owners"):
        muon(0.1, mesh=mesh, owners=("data",))
    with pytest.raises(InputError, match="muon owners"):
        muon(0.1, owners=("fsdp",))
    leaf = {"w": jnp.ones((4, 4))}
    with pytest.raises(InputError, match="muon shardings: w"):
        muon(0.1, "in -> out", mesh=mesh, shardings={"w": PartitionSpec("model")}).init(leaf)
    with pytest.raises(InputError, match="muon shardings: w"):
        muon(0.1, "in -> out", mesh=mesh, shardings={"v": PartitionSpec()}).init(leaf)
