"""Run as a script on 8 simulated devices: a loop with collectives, and what is read out of it, as one JSON object."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from wallwm_jax.plan.hlo import parse
from wallwm_jax.plan.traffic import traffic


def main():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    ring = [(device, (device + 1) % 2) for device in range(2)]

    def turn(block, _):
        summed = jax.lax.psum(block, "fsdp")
        gathered = jax.lax.all_gather(summed, "data")
        return jax.lax.ppermute(gathered.mean(0), "data", ring), None

    def local(block):
        return jax.lax.scan(turn, block, length=5)[0]

    spec = PartitionSpec(("data", "fsdp"))
    step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    program = parse(step.lower(jnp.ones((48, 16))).compile().as_text())
    found = {kind: dataclasses.astuple(sent) for kind, sent in traffic(program, [0] * 8).sent.items()}
    across = traffic(program, [0] * 4 + [1] * 4).total_sent
    print(json.dumps({**found, "slices": {"links": across.links, "network": across.network}}))


if __name__ == "__main__":
    main()
