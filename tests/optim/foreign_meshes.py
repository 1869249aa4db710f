"""Muon on meshes of a user's, beside one device's update: run by test_placement.py in a process of its own.

The last line is one JSON object a case.
"""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.optim.owned_steps import collectives, distance, same
from wallwm_jax.core.errors import InputError
from wallwm_jax.optim import muon

RULE = {"up": "layers | embed -> mlp", "down": "mlp -> embed", "conv": "cout <- cin k", "bias": "mlp"}
SHAPES = {"up": (4, 8, 16), "down": (16, 8), "conv": (8, 4, 4), "bias": (16,)}
SPECS = {
    "data model": {
        "up": PartitionSpec(None, "data", "model"), "down": PartitionSpec("model", None),
        "conv": PartitionSpec("model"), "bias": PartitionSpec("model"),
    },
    "fsdp": {
        "up": PartitionSpec("fsdp"), "down": PartitionSpec(None, "fsdp"), "conv": PartitionSpec(None, "fsdp"),
        "bias": PartitionSpec(),
    },
}  # fmt: skip
CASES = [
    ("data model", (2, 2), AxisType.Auto, ("model",)),
    ("data model", (2, 2), AxisType.Explicit, None),
    ("fsdp", (4,), AxisType.Auto, None),
    ("fsdp", (4,), AxisType.Explicit, None),
]


def main() -> None:
    generator = np.random.default_rng(0)
    tree = {name: jnp.asarray(generator.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
    print(json.dumps([case(tree, *chosen) for chosen in CASES]))


def case(tree: dict, axes: str, sizes: tuple[int, ...], kind: AxisType, owners: tuple[str, ...] | None) -> dict:
    """The largest relative distance of a leaf from one device's update, what the compiled step holds, what is said."""
    names = tuple(axes.split())
    mesh = jax.make_mesh(sizes, names, axis_types=(kind,) * len(names), devices=jax.devices()[:4])
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS[axes].items()}
    placed = jax.device_put(tree, shardings)
    alone = muon(0.1, RULE)
    expected, _ = jax.jit(alone.update)(tree, alone.init(tree), tree)
    given = shardings if kind == AxisType.Auto else None
    shared = muon(0.1, RULE, mesh=mesh, shardings=given, owners=owners)
    with jax.set_mesh(mesh):
        state = shared.init(placed)
        step = jax.jit(shared.update).lower(placed, state, placed).compile()
        updates, after = step(placed, state, placed)
    moments = after.inner_states["muon"].inner_state[0].momentum
    inside, outside = collectives(step.as_text())
    return {
        "case": [axes, str(kind)],
        "gap": max(distance(jax.device_get(updates[name]), expected[name]) for name in tree),
        "inside": inside,
        "outside": outside,
        "moved": [name for name in tree if not same(updates[name], placed[name])]
        + [name for name in ("up", "down", "conv") if not same(moments[name], placed[name])],
        "without a mesh": without_mesh(placed),
        "hidden": hidden(placed, mesh) if kind == AxisType.Auto else "",
    }


def without_mesh(placed: dict) -> str:
    """What two calls of `init` say of sharded leaves if no mesh is given."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("wallwm_jax").addHandler(handler)
    try:
        optimizer = muon(0.1, RULE)
        optimizer.init(placed), optimizer.init(placed)
    except InputError as error:
        return f"refused: {error}"
    finally:
        logging.getLogger("wallwm_jax").removeHandler(handler)
    return " / ".join(said)


def hidden(placed: dict, mesh: jax.sharding.Mesh) -> str:
    """What a jitted step on Auto axes says that is not told how they cut the leaves."""
    optimizer = muon(0.1, RULE, mesh=mesh)
    state = optimizer.init(placed)
    try:
        jax.jit(optimizer.update).lower(placed, state, placed)
    except InputError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
