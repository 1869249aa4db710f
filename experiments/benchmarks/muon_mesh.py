"""Muon's iterations as compiled for eight devices with parameters sharded over all; muon.py runs this.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python experiments/benchmarks/muon_mesh.py LAYERS WIDTH
    python experiments/benchmarks/muon_mesh.py LAYERS WIDTH v5p:2x2x2    # eight chips that are not here (extra `plan`)

Simulated devices take the products as the benchmark has them, TPUs in bf16, whole. The last line is one JSON object.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from muon import SETTINGS, declarations, shapes

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import make_mesh, parameter_shardings, replicated
from wallwm_jax.optim.muon import MuonSettings, MuonState, matrix_views, ownership_of, scale_by_muon
from wallwm_jax.plan.hlo import Program, parse
from wallwm_jax.plan.step import using
from wallwm_jax.plan.topology import absent_devices, parse_topology
from wallwm_jax.plan.traffic import Traffic, traffic


class OneTurn(Program):
    """A program whose loops count once, as in XLA's own cost analysis."""

    def trips(self, computation: Any, loop: Any) -> int:
        return 1


def main(layers: int, width: int, topology: str | None = None) -> None:
    rules, settings = declarations(layers, stack=False), SETTINGS
    mesh = make_mesh("host", absent_devices(parse_topology(topology)) if topology else None)
    if topology:
        settings = dataclasses.replace(settings, products="bfloat16", halves=False)
    leaves = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes(rules, layers, width).items()}
    ownership, _ = ownership_of(matrix_views(leaves, rules, settings, mesh), dict(mesh.shape), settings)
    compiled = compiled_update(leaves, rules, settings, mesh)
    program, devices = parse(compiled.as_text()), [0] * mesh.size
    counted = sorted(share.group.flops for share in ownership.shares)
    owned = sorted(of_body(program, body, devices).flops for body in loops(program))
    if len(owned) != len(counted):  # around a single matrix the compiler leaves no loop to find it by
        raise InputError("layers", layers, f"2 or more matrices of every shape for each of {mesh.size} devices")
    single = sum(flops * share.group.count for flops, share in zip(counted, by_cost(ownership), strict=True))
    busiest = sum(flops * share.counts for flops, share in zip(owned, by_cost(ownership), strict=True)).max()
    once = traffic(OneTurn(program.computations, program.entry), devices).flops
    found = {
        "ns_flops_fraction_8dev": round(float(busiest) / (single / mesh.size), 4),
        "iteration_collectives": int(sum(of_body(program, body, devices).total_sent.calls for body in loops(program))),
        "ns_flops_8dev": {
            "analytic_fraction": round(float(ownership.flops.max()) / (single / mesh.size), 4),
            "counter_vs_compiled": round(sum(counted) / sum(owned), 4),
            "products_vs_cost_analysis": round(once / compiled.cost_analysis()["flops"], 4),
        },
    }
    print(json.dumps(found))


def by_cost(ownership: Any) -> list[Any]:
    """Shares in the order of what a matrix costs."""
    return sorted(ownership.shares, key=lambda share: share.group.flops)


def compiled_update(leaves: Any, rules: Any, settings: MuonSettings, mesh: Mesh) -> Any:
    optimizer, shardings = scale_by_muon(rules, settings, mesh), parameter_shardings(leaves, rules, mesh)
    placed = jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), leaves, shardings)
    with using(mesh):
        state = MuonState(jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh)), placed)
        return jax.jit(optimizer.update, donate_argnums=1).lower(placed, state).compile()


def loops(program: Program) -> Iterator[str]:
    """The bodies of the outermost loops: a turn is one matrix's iteration, with the loops in it."""
    for step in program.computations[program.entry].instructions.values():
        if step.operation == "while":
            yield step.called("body")


def of_body(program: Program, body: str, devices: list[int]) -> Traffic:
    """What one turn of a loop does."""
    return traffic(dataclasses.replace(program, entry=body), devices)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
