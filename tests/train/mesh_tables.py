"""Run as a script on 16 simulated devices: the loss and gradients of both towers on every mesh of the topology table.

Arguments are pairs "topology:devices"; the first is what the others are compared with. The last line is one JSON object
that has, for every pair: the mesh, the loss, the largest difference of a gradient as a share of the largest number in
it, the batch's event rows, how often the program says where something lies, and, as compiled, the operations of a
device and the places of its all-to-alls.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests.train.synthetic import random_batch
from wallwm_jax.core.mesh import batch_sharding, make_mesh, parameter_shardings
from wallwm_jax.core.trees import named_leaves
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.plan.hlo import parse
from wallwm_jax.plan.traffic import traffic
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.prefetch import to_mesh
from wallwm_jax.train.settings import stage_settings
from wallwm_jax.train.step import make_gradients

ROWS = 16
SIZES = {"layers": 1, "heads": 4, "action_heads": 4, "reader": (), "prediction": "velocity"}
OBJECTIVE = {"video": {"sight_cones": False}, "action": {"draws": 2}}


def gradients_on(mesh, model, parameters, declarations):
    """(lowered, compiled, results) of stage 5, in which both towers learn."""
    stage = stage_of("adaptation")
    settings = stage_settings(stage, {"steps": 100, "objective": OBJECTIVE})
    batch = random_batch(0, rows=ROWS)
    batch = batch._replace(event_rows=np.arange(batch.event_rows.size, dtype=np.int32).reshape(ROWS, -1))
    with jax.set_mesh(mesh):
        placed = jax.device_put(parameters, parameter_shardings(parameters, declarations, mesh))
        given = placed, to_mesh(batch, batch_sharding(mesh)), jnp.int32(0)

        def step(parameters, batch, step):
            return make_gradients(model, stage, settings, 0)(parameters, batch, step), batch.event_rows

        lowered = jax.jit(step).lower(*given)
        compiled = lowered.compile()
        return lowered, compiled, jax.device_get(compiled(*given))


def described(mesh, lowered, compiled, results, expected):
    """What the report says of a mesh; `expected` are one device's gradients by name."""
    ((loss, _), gradients), ids = results
    sizes = {name: np.abs(value).max() for name, value in expected.items()}
    gaps = {
        name: float(np.abs(value - expected[name]).max() / sizes[name])
        for name, value in named_leaves(gradients).items()
        if sizes[name] > 0
    }
    worst, text = max(gaps, key=gaps.get), compiled.as_text()
    return {
        "mesh": dict(mesh.shape),
        "loss": float(loss),
        "gap": gaps[worst],
        "worst": worst,
        "gradients": len(gaps),
        "ids": ids.ravel().tolist(),
        "constraints": lowered.as_text().count("sdy.sharding_constraint"),
        "flops": traffic(parse(text), [0] * mesh.size).flops,
        "exchanges": re.findall(r' all-to-all\(.*op_name="([^"]*)"', text),
    }


def main(pairs: list[str]) -> None:
    model = WorldAction(variant("micro", SIZES), views=2)
    parameters, declarations = init_parameters(model, jax.random.key(0), random_batch(0))
    generator = np.random.default_rng(0)
    # Layers that start as zeros would keep gradients from what stands before them.
    parameters = jax.tree.map(lambda leaf: leaf + 0.05 * generator.normal(size=leaf.shape).astype("f"), parameters)
    meshes = {pair: make_mesh(name, jax.devices()[: int(count)]) for pair in pairs for name, count in [pair.split(":")]}
    found, expected = {}, None
    for mesh in meshes.values():
        if mesh not in found:  # of one device there are several names
            lowered, compiled, results = gradients_on(mesh, model, parameters, declarations)
            expected = expected or named_leaves(results[0][1])
            found[mesh] = described(mesh, lowered, compiled, results, expected)
    print(json.dumps({pair: found[mesh] for pair, mesh in meshes.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
