"""Run as a script on 8 simulated devices: two steps of a stage on meshes of one and of eight devices, compared.

On each mesh the parameters are drawn into its shards. Prints one JSON object: whether both have the same bits, the
share of all bytes that a device of the eight holds, the losses on both meshes, the largest difference of a parameter,
and the number of parameters that really lie in pieces on the eight.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from tests.train.synthetic import random_batch
from wallwm_jax.core.mesh import batch_sharding, make_mesh
from wallwm_jax.core.trees import digest, named_leaves
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.train.architecture import architecture
from wallwm_jax.train.checkpoint import Records
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.fit import make_programs
from wallwm_jax.train.prefetch import to_mesh
from wallwm_jax.train.run import Run
from wallwm_jax.train.settings import stage_settings


def two_steps(mesh_name: str, stage_name: str, model: WorldAction, parameters, declarations):
    """(losses, state) after two steps on a mesh."""
    stage, mesh = stage_of(stage_name), make_mesh(mesh_name)
    # Adam divides rounding noise by itself where a true gradient is zero; its epsilon is raised above that noise.
    settings = stage_settings(stage, {"steps": 10, "warmup_steps": 0, "adam_epsilon": 1e-4, "objective": {}})
    records = Records({}, {}, {}, architecture(model))
    run, losses = Run(stage, model, declarations, settings, mesh, 0, records, pathlib.Path()), []
    with jax.set_mesh(mesh):
        programs = make_programs(run, parameters)
        state = programs.create(parameters)
        for seed in range(2):
            state, metrics = programs.step(state, to_mesh(random_batch(seed, rows=4), batch_sharding(mesh)))
            losses.append(float(metrics["loss"]))
    return losses, state


def main(stage_name: str) -> None:
    model = WorldAction(variant("micro"), views=2)
    drawn, results = [], []
    for name in ("laptop", "eight_devices"):
        parameters, declarations = init_parameters(model, jax.random.key(0), random_batch(0), make_mesh(name))
        leaves = jax.tree.leaves(parameters)
        shards = sum(leaf.addressable_shards[-1].data.nbytes for leaf in leaves)
        drawn.append((digest(parameters), shards / sum(leaf.nbytes for leaf in leaves)))
        results.append(two_steps(name, stage_name, model, parameters, declarations))
    (losses, one), (sharded_losses, eight) = results
    other = named_leaves(eight.parameters)
    gaps = {
        name: float(np.abs(np.asarray(leaf) - other[name]).max()) for name, leaf in named_leaves(one.parameters).items()
    }
    pieces = [name for name, leaf in other.items() if leaf.addressable_shards[0].data.size < leaf.size]
    moments = [
        leaf for leaf in jax.tree.leaves(eight.optimizer_state) if leaf.addressable_shards[0].data.size < leaf.size
    ]
    worst = max(gaps, key=gaps.get)
    print(json.dumps({
        "same_bits": drawn[0][0] == drawn[1][0],
        "share": drawn[1][1],
        "losses": losses, "sharded_losses": sharded_losses, "gap": gaps[worst], "worst": worst,
        "pieces": len(pieces), "moments": len(moments),
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
