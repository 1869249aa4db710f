"""Plans: analytic ones of the real sizes, one that is compiled, and one that the compiler refuses."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.plan.conftest import ROOT, needs_libtpu
from wallwm_jax.cli import planning
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.plan.analytic import Holdings
from wallwm_jax.plan.compilation import Compiled, compile_program, needed_bytes
from wallwm_jax.plan.hardware import CHIPS, GIB
from wallwm_jax.plan.operations import Operations
from wallwm_jax.plan.plan import Plan, make_plan
from wallwm_jax.plan.report import as_json
from wallwm_jax.plan.roofline import roofline, utilisation
from wallwm_jax.plan.topology import absent_devices, parse_topology
from wallwm_jax.plan.traffic import Sent, Traffic
from wallwm_jax.train.families import stage_of


def run(*arguments):
    """`wallwm plan` in a process of its own: (exit code, lines)."""
    command = [sys.executable, "-m", "wallwm_jax.cli.main", "plan", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_the_real_size_is_planned_without_allocating_it(tmp_path):
    """Stage 1 of "5b" with its text encoder frozen on 64 chips, whose parameters alone are 50 GB: the state's bytes
    follow from its shardings (a sixteenth of 4 bytes a parameter, of which very few are not divided), and the model's
    operations are about six a trained parameter and token: attention adds what captions and time, which have fewer
    tokens, save."""
    output = tmp_path / "plan.json"
    options = ("--topology", "v5p:4x4x4", "--analytic", "--json", str(output))
    code, lines = run("--config", "experiments/wan.py:5b", *options)
    assert code == 0
    found = json.loads(output.read_text())
    assert json.loads(lines[-1]) == found
    assert found["frozen"] == ["text_encoder"]
    assert found["fits"] and found["mesh"] == {"data": 4, "fsdp": 16, "sequence": 1, "tensor": 1}
    assert found["batch"]["tokens"] == 64 * 34 * 3 * 8 * 8
    held, parameters = found["memory"]["shardings"], found["parameters"]
    assert held["parameters"] == pytest.approx(parameters["all"] * 4 / 16, rel=0.01)
    assert held["average"] == pytest.approx(parameters["trained"] * 4 / 16, rel=0.01)
    assert held["average"] < held["optimizer"] < 1.2 * held["average"]
    usual = 6 * parameters["trained"] * found["batch"]["tokens"]
    assert found["flops"]["model"] == pytest.approx(usual, rel=0.05)
    assert found["flops"]["recomputed"] == pytest.approx(found["flops"]["model"] / 3, rel=0.05)


def test_what_cannot_fit_leaves_with_one(monkeypatch, capsys, tmp_path):
    """Plain lines and the verdict where there is no terminal, the JSON line last; needing more than there is gives 1,
    and so does a refusal of the compiler."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    fitting, lacking, refused = small_plan(4 * GIB), small_plan(400 * GIB), small_plan(4 * GIB)
    refused = dataclasses.replace(refused, compiled=Compiled(1.0, None, None, "RESOURCE_EXHAUSTED: no", 99 * GIB))
    config, output = str(ROOT / "experiments/wan.py:5b"), tmp_path / "plan.json"
    for found, code, text in (
        (fitting, 0, "may fit: needs at least 5.00 GiB of the 95.00 GiB of v5p"),
        (lacking, 1, "does not fit: needs at least 401.00 GiB of the 95.00 GiB of v5p"),
        (refused, 1, "does not fit: needs 99.00 GiB, has the 95.00 GiB of v5p; the compiler says: RESOURCE_EXHAUSTED"),
    ):
        monkeypatch.setattr("wallwm_jax.plan.plan.make_plan", lambda *a, found=found, **k: found)
        assert planning.plan(config, [], "v5p:2x2x1", output=str(output)) == code
        *lines, verdict, last = capsys.readouterr().out.splitlines()
        assert verdict.startswith(text)
        assert "memory a device | average: 0.50 GiB" in lines
        assert json.loads(last) == json.loads(output.read_text()) and json.loads(last)["fits"] == (code == 0)


def small_plan(parameters):
    """An analytic plan by hand, with so many bytes of parameters on a device and 1 GiB of all else."""
    topology, half = parse_topology("v5p:2x2x1"), GIB // 2
    roof = roofline(topology.chip, 1e12, 1e9, Sent(1e9))
    held = Holdings(parameters, half, half, 0, 0, 0, 0)
    mesh, operations = {"data": 1, "fsdp": 4, "sequence": 1, "tensor": 1}, Operations(4 * 10**12, 0, 0, 4)
    return Plan("video", (), topology, mesh, 10, 5, 8, 100, operations, held, Traffic(flops=1e12), roof, None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"topology": "v9:1"}, "--topology"),
        ({"topology": "v5p:2x2x1"}, r"config\.mesh 'pod': found 4 devices"),
        ({"stage": "9"}, r"--stage: found 9"),
        ({"stage": "vido"}, r"--stage: found 'vido', .*nearest: 'video'"),
        ({"views": 0}, "--views"),
        ({"output": "/nowhere/plan.json"}, "--json"),
        ({"overrides": ["stages.video.freeze=('action',)"]}, r"config\.stages\.video\.freeze: found \['action'\]"),
        ({"overrides": ["data.rows=63"]}, r"config\.data\.rows"),
        ({"overrides": ["mesh=long_rows_pod"]}, "row_frames of stage video: found 34, expected a multiple of 4"),
        ({"overrides": ["mesh=laptop"]}, r"1 devices, expected the 64 of v5p:4x4x4"),
    ],
)
def test_bad_input_is_named(changes, message, monkeypatch):
    """Chip, devices of the mesh, stage, views, output, towers, rows and frames that cannot be."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    options = {"topology": "v5p:4x4x4", "analytic": True, "overrides": []} | changes
    with pytest.raises(InputError, match=message):
        planning.plan(str(ROOT / "experiments/wan.py:5b"), options.pop("overrides"), options.pop("topology"), **options)


def test_seconds_are_bytes_and_operations_over_peaks():
    """Of a chip, and of a device that is half of one; the slow network counts beside the links."""
    chip = CHIPS["v5p"]
    found = roofline(chip, chip.flops, 2 * chip.memory_bandwidth, Sent(3 * chip.link_bandwidth, chip.network_bandwidth))
    assert found == pytest.approx((1.0, 2.0, 4.0))
    assert (found.overlapped, found.serial, found.bound) == (pytest.approx(4.0), pytest.approx(7.0), "network")
    half = CHIPS["tpu7x"]
    assert roofline(half, half.flops, 0.0, Sent()).compute == pytest.approx(2.0)
    assert utilisation(half, 3 * half.flops, devices=6, seconds=2.0) == pytest.approx(0.5)


@needs_libtpu
def test_a_step_is_compiled_for_chips_that_are_not_there(micro_config):
    """The micro model's stage 1 on v5p:2x2x1: the compiler's bytes are those of the shardings and of what pads arrays
    of this size to whole tiles, and its operations are those that were counted, shared evenly."""
    found = make_plan(stage_of("video"), micro_config, parse_topology("v5p:2x2x1"), views=2)
    assert found.fits and found.mesh == {"data": 1, "fsdp": 4, "sequence": 1, "tensor": 1}
    held, memory = found.held, found.compiled.memory
    assert 1 <= memory.arguments / (held.state + held.batch) < 10
    assert memory.peak == found.needed < found.limit
    assert found.traffic.flops == pytest.approx(found.operations.device, rel=0.5)
    assert found.traffic.total_sent.links > 0 and found.traffic.total_sent.network == 0
    assert json.loads(json.dumps(as_json(found)))["traffic"]["compiled"]


@needs_libtpu
def test_an_offloaded_optimizer_leaves_the_chips(micro_config):
    """The compiler's arguments are smaller by what the shardings say, up to what pads arrays of this size."""
    micro_config.stages.video.freeze = ("text_encoder",)
    sizes = []
    for offload in (False, True):
        micro_config.stages.video.offload_optimizer = offload
        found = make_plan(stage_of("video"), micro_config, parse_topology("v5p:2x2x1"), views=2)
        sizes.append(found.compiled.memory.arguments)
    assert found.held.host > 0 and sizes[0] - sizes[1] >= found.held.host


@needs_libtpu
def test_a_program_that_is_too_large_is_an_answer():
    """The compiler's refusal, with the bytes that would have been needed."""
    mesh = make_mesh("host", absent_devices(parse_topology("v5e:2x2")))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    large = jax.ShapeDtypeStruct((4 * 2**20, 2**11), jnp.float32, sharding=sharding)
    found = compile_program(jax.jit(lambda values: jnp.flip(values, 1) * 2), (large,), mesh)
    assert found.memory is None and "RESOURCE_EXHAUSTED" in found.refusal
    assert found.needed >= 16 * 2**30


def test_sizes_in_refusals_are_read():
    """In the spellings that the compiler has."""
    assert needed_bytes("Used 120.50G of 95.74G hbm. Exceeded hbm capacity by 24.76G.") == 120.5 * 2**30
    assert needed_bytes("total memory required for HLO temporaries (40.00G) exceeds") == 40 * 2**30
    assert needed_bytes("out of memory") is None
