"""What is read out of compiled programs: bytes sent, bytes of memory, operations; loops as often as they turn."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.plan.conftest import ROOT
from wallwm_jax.core.flops import matmul_flops
from wallwm_jax.plan.groups import members, replica_groups
from wallwm_jax.plan.hlo import parse
from wallwm_jax.plan.traffic import Sent, traffic

FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


def read(function, *arguments, devices=1):
    compiled = jax.jit(function).lower(*arguments).compile()
    return traffic(parse(compiled.as_text()), [0] * devices), compiled


def test_collectives_in_a_loop_count_as_often_as_it_turns():
    """Five turns of an all-reduce over 4 devices, an all-gather over 2 and a permutation over 8, on eight CPU devices:
    exactly the bytes that ring algorithms send."""
    environment = os.environ | {"XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests/plan/collectives.py")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    block = 6 * 16 * 4
    assert found["all-reduce"] == [5 * 2 * 3 / 4 * block, 0, 5]
    assert found["all-gather"] == [5 * 1 / 2 * 2 * block, 0, 5]
    assert found["collective-permute"] == [5 * block, 0, 5]
    # The same program on two slices of four devices: the all-reduce stays in a slice, the others cross.
    assert found["slices"] == {"links": 5 * 2 * 3 / 4 * block, "network": 5 * (1 + 1) * block}


def test_loops_multiply_operations_of_the_compiled_program():
    """The compiled program's products and the traced function's are two independent counts, and equal."""
    square, x = jnp.ones((32, 32)), jnp.ones((4, 32))

    def loss(x, square):
        def turn(y, _):
            return jnp.tanh(y @ square), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(turn), x, length=7)[0])

    function = jax.grad(loss, (0, 1))
    found, _ = read(function, x, square)
    assert found.flops == matmul_flops(function, x, square) > 7 * 2 * 2 * 4 * 32 * 32
    assert found.unknown_loops == 0


def test_a_loop_of_unknown_length_is_named():
    """Its bytes count once, its operations not at all."""
    found, _ = read(lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: y @ y, x), jnp.ones((8, 8)), 5)
    assert found.unknown_loops == 1 and found.flops == 0 and found.memory >= 3 * 8 * 8 * 4


def test_slices_of_a_stack_count_and_not_the_stack():
    """A scan over 50 stacked vectors reads each once; reading the stack in every turn would be 50 times as much."""
    stack = jnp.ones((50, 1000))
    found, _ = read(lambda s: jax.lax.scan(lambda c, row: (c + jnp.sum(row), None), 0.0, s)[0], stack)
    assert stack.nbytes <= found.memory < 5 * stack.nbytes


@pytest.mark.parametrize(
    "text, expected",
    [
        ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
        ("channel_id=1", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
    ],
)
def test_groups_in_all_spellings(text, expected):
    """Lists, iota tiles, and axes of a mesh, whole, in part and reordered."""
    np.testing.assert_array_equal(replica_groups(text, 4), expected)


def test_unknown_spellings_of_groups_are_refused():
    """Rather than taken for all devices."""
    with pytest.raises(ValueError, match="replica groups"):
        replica_groups("replica_groups=new(3)", 4)


def test_members_of_a_group_by_slice():
    """(inside a slice, slices)."""
    assert members(np.array([[0, 1, 4, 5]]), [0, 0, 0, 0, 1, 1, 1, 1]) == (2, 2)


TPU_PROGRAM = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input.1: bf16[64,8]) -> bf16[16,8] {
  %input.1 = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%input.1), replica_groups={{0,1,2,3}}, to_apply=%add
  %constant.1 = s32[] constant(0)
  ROOT %slice.1 = bf16[16,8]{1,0} dynamic-slice(%all-reduce.1, %constant.1, %constant.1), dynamic_slice_sizes={16,8}
}

%fused_computation.1 (stack: f32[30,64,8], row: f32[1,64,8], at: s32[]) -> f32[30,64,8] {
  %stack = f32[30,64,8]{2,1,0:T(8,128)} parameter(0)
  %row = f32[1,64,8]{2,1,0:T(8,128)} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[30,64,8]{2,1,0:T(8,128)} dynamic-update-slice(%stack, %row, %at, %zero, %zero)
}

ENTRY %main (p0: bf16[64,8], p1: f32[30,64,8], p2: f32[1,64,8], p3: s32[]) -> f32[30,64,8] {
  %p0 = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[30,64,8]{2,1,0:T(8,128)} parameter(1)
  %p2 = f32[1,64,8]{2,1,0:T(8,128)} parameter(2)
  %p3 = s32[]{:T(128)} parameter(3)
  %fusion.1 = bf16[16,8]{1,0:T(8,128)(2,1)} fusion(%p0), kind=kCustom, calls=%all-reduce-scatter.1
  %near = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} negate(%fusion.1)
  %queries = bf16[6,4,8]{2,1,0} constant({...})
  %keys = bf16[6,8,5]{2,1,0} constant({...})
  %scores = f32[6,4,5]{2,1,0:T(8,128)S(1)} convolution(%queries, %keys), WINDOW
  ROOT %fusion.2 = f32[30,64,8]{2,1,0:T(8,128)} fusion(%p1, %p2, %p3), kind=kLoop, calls=%fused_computation.1
}
""".replace("WINDOW", "window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf")


MULTISLICE_PROGRAM = """HloModule jit_step

ENTRY %main (p0: f32[64,8]) -> token[] {
  %p0 = f32[64,8]{1,0:T(8,128)} parameter(0)
  %after-all = token[] after-all()
  %send = (f32[64,8]{1,0:T(8,128)}, u32[], token[]) send(%p0, %after-all), channel_id=2, ATTRIBUTES
  ROOT %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true
}
""".replace(
    "ATTRIBUTES", 'frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}'
)


def test_what_leaves_a_slice_of_tpus_goes_over_the_network():
    """It is handed to the host, which sums it with two other slices: 2 (3 - 1) / 3 of it by a ring."""
    found = traffic(parse(MULTISLICE_PROGRAM), [0, 0, 1, 1, 2, 2])
    assert found.sent == {"all-reduce": Sent(0.0, 2 * 2 / 3 * 64 * 8 * 4, 1)}


def test_what_tpus_spell_in_their_own_way():
    """A reduce-scatter is an all-reduce in a fusion of that name; VMEM is free; what is updated in its place is not
    written whole; products with the zeros of a dilation, by which a batch of products is a convolution, do not
    count."""
    found = traffic(parse(TPU_PROGRAM), [0] * 4)
    assert found.sent == {"reduce-scatter": Sent(3 / 4 * 64 * 8 * 2, 0.0, 1)}
    scattered, negated, operands, updated = (64 + 16) * 8 * 2, 16 * 8 * 2, (6 * 4 * 8 + 6 * 8 * 5) * 2, 2 * 64 * 8 * 4
    assert found.memory == scattered + negated + operands + updated + 4
    assert found.flops == 2 * 6 * 4 * 5 * 8
