"""Muon's update on meshes of simulated devices, beside one device's: run by test_exchange.py in a process of its own.

The last line is one JSON object a mesh.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from wallwm_jax.core.axes import declare
from wallwm_jax.core.mesh import MESH_AXES, parameter_shardings
from wallwm_jax.optim.muon import MuonSettings, scale_by_muon

SIZES = {"embed": 16, "mlp": 40, "heads": 4, "head_dim": 4, "layers": 5, "patch": 3}
RULES = {
    "square": declare("embed -> embed"),
    "tall": declare("mlp -> embed"),
    "wide": declare("embed -> mlp"),
    "stacked": declare("layers | embed -> mlp"),
    "heads": declare("layers | embed -> heads head_dim"),
    "merge": declare("layers | heads head_dim -> embed"),
    "odd": declare("layers | patch -> embed"),
}
CASES = [
    ((2, 2, 1, 2), MuonSettings()),
    ((2, 2, 1, 2), MuonSettings(split=("heads",), iteration="cheapest")),
    ((1, 4, 1, 2), MuonSettings(products="bfloat16", exact_steps=0)),
    ((1, 2, 2, 2), MuonSettings(iteration="cheapest")),
    ((4, 1, 1, 1), MuonSettings()),
    ((1, 1, 2, 1), MuonSettings()),
]
COLLECTIVE = re.compile(r"= [^=]* (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)[-\w]*\(")


def main() -> None:
    generator = np.random.default_rng(0)
    tree = {name: jnp.asarray(generator.normal(size=rule.shape(SIZES)), jnp.float32) for name, rule in RULES.items()}
    print(json.dumps([case(tree, shape, settings) for shape, settings in CASES]))


def case(tree: dict, shape: tuple[int, int, int, int], settings: MuonSettings) -> dict:
    """The largest relative distance of a leaf from one device's update, and what the compiled step holds."""
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)
    placed = jax.device_put(tree, parameter_shardings(tree, RULES, mesh))
    alone, shared = scale_by_muon(RULES, settings), scale_by_muon(RULES, settings, mesh)
    expected, _ = jax.jit(alone.update)(tree, alone.init(tree))
    with jax.set_mesh(mesh):
        state = jax.jit(shared.init)(placed)
        step = jax.jit(shared.update).lower(placed, state).compile()
        updates, state = step(placed, state)
    gaps = [distance(jax.device_get(updates[name]), expected[name]) for name in RULES]
    inside, outside = collectives(step.as_text())
    return {
        "shape": shape,
        "gap": max(gaps),
        "inside": inside,
        "outside": outside,
        "moved": [name for name in RULES if not same(state.momentum[name], placed[name])],
    }


def distance(found: np.ndarray, expected: jax.Array) -> float:
    return float(np.linalg.norm(found - np.asarray(expected)) / np.linalg.norm(expected))


def same(one: jax.Array, other: jax.Array) -> bool:
    return one.sharding.is_equivalent_to(other.sharding, one.ndim)


def collectives(text: str) -> tuple[int, int]:
    """How many collectives a compiled program has inside the bodies and conditions of its loops, and elsewhere."""
    bodies = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
    inside = outside = 0
    for part in re.split(r"\n(?=%|ENTRY)", text):
        name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", part)
        found = len(COLLECTIVE.findall(part))
        inside, outside = (inside + found, outside) if name and name[1] in bodies else (inside, outside + found)
    return inside, outside


if __name__ == "__main__":
    main()
