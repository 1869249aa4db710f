"""Every row of the topology table computes the same."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import TOPOLOGIES, mesh_sizes

ROOT = pathlib.Path(__file__).parents[2]
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jax.__version_info__ < (0, 12):
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # half the time; later compilers don't know it
ONE = ("laptop", 1)


def counts_of(name):
    """1, 2, 4 and 8 devices if they fit a topology, and 16 if only they do."""
    fitting = [count for count in (1, 2, 4, 8, 16) if fits(name, count)]
    return [count for count in fitting if count <= 8] or fitting


def fits(name, count):
    try:
        return math.prod(mesh_sizes(name, count)) == count
    except InputError:
        return False


PAIRS = [(name, count) for name in TOPOLOGIES for count in counts_of(name)]


@pytest.fixture(scope="module")
def found():
    """What `mesh_tables.py` says of each pair: all of them in one process of 16 simulated devices."""
    flags = f"--xla_force_host_platform_device_count=16 {QUICK}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pairs = [f"{name}:{count}" for name, count in PAIRS]
    command = [sys.executable, str(ROOT / "tests/train/mesh_tables.py"), *pairs]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    return {(name, int(count)): report[f"{name}:{count}"] for name, count in PAIRS}


def test_the_table_is_covered():
    """No row is left out, and rows of every size of mesh up to 8 devices are among them."""
    assert {name for name, _ in PAIRS} == set(TOPOLOGIES)
    assert PAIRS[0] == ONE and {count for _, count in PAIRS} >= {1, 2, 4, 8}


@pytest.mark.parametrize(("name", "count"), PAIRS)
def test_one_device_equals_every_mesh(name, count, found):
    """Loss and every gradient of both towers within 1e-5 (fp32 sums in another order) of those of one device, on the
    same samples in the same order; where there are several devices, the program says where activations lie."""
    one, this = found[ONE], found[name, count]
    assert this["loss"] == pytest.approx(one["loss"], abs=1e-5, rel=1e-5)
    assert this["gap"] < 1e-5, this["worst"]
    assert this["gradients"] > 50
    assert this["ids"] == one["ids"] == sorted(set(one["ids"]))
    assert (this["constraints"] > 0) == (count > 1)


def test_where_activations_lie_does_not_depend_on_the_number_of_devices(found):
    """Meshes that cut rows, tokens or both ask for the same whatever their size; where tokens are cut, also around
    attention."""
    asked = {}
    for this in found.values():
        rows, tokens = this["mesh"]["data"] * this["mesh"]["fsdp"] > 1, this["mesh"]["sequence"] > 1
        asked.setdefault((rows, tokens), set()).add(this["constraints"])
    assert all(len(counts) == 1 for counts in asked.values()), asked
    assert min(asked[True, True]) > min(asked[True, False]) > min(asked[False, False]) == 0


def test_tokens_are_exchanged_for_heads_around_attention(found):
    """As compiled for long rows on 8 devices: in the towers, the all-to-alls that the layouts ask for stand around the
    attention within views and that of the actions and nowhere else, and a device does an eighth of one device's
    operations, but for what is done once a row, of captions for example: under 10 % more."""
    this, one = found["long_rows", 8], found[ONE]
    asked = [place for place in this["exchanges"] if place.endswith("sharding_constraint")]
    blocks = [re.search(r"blocks/(video|action)/(\w+)", place) for place in asked]
    assert {match.groups() for match in blocks if match} == {
        ("video", "within_view"),
        ("action", "self"),
        ("action", "video"),
    }
    assert 1.0 <= 8 * this["flops"] / one["flops"] < 1.1
    assert not [place for place in found["host", 8]["exchanges"] if "blocks" in place]
