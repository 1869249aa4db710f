"""Run as a script, once for each process of one run of the toy: number, count, port, folder, the process that is
asked to stop (-1 for none), the mesh, and settings of the stage as JSON. First it draws a parameter into shards over
all processes. Prints the files that it hashed in order to go on with a checkpoint, and last the step that the process
has left after, with the learned bias; the one that was asked to stop prints before that how many seconds it took."""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tests.train.synthetic import random_batch
from tests.train.toy import toy_run, toy_start
from wallwm_jax.core.axes import declare
from wallwm_jax.core.mesh import make_mesh, row_share
from wallwm_jax.core.processes import ProcessGroup, join
from wallwm_jax.nn.drawing import materialise
from wallwm_jax.nn.parameters import DeclaredParameter, Initializer
from wallwm_jax.train import fit as training
from wallwm_jax.train import manifest
from wallwm_jax.train.progress import PlainReporter
from wallwm_jax.train.run import StageData
from wallwm_jax.train.stop import StopSignals

ROWS = 4


def check_own_shards() -> None:
    """A parameter of four blocks that is cut over the devices of all processes: under the run's mesh, as in a run, each
    process draws its own rows, and these are the whole's."""
    box = DeclaredParameter(
        jax.ShapeDtypeStruct((512, 512), np.float32), declare("embed -> mlp"), Initializer(0.0, 1.0)
    )
    whole, mesh = materialise({"weight": box}, jax.random.key(0))["weight"], make_mesh("host")
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
        cut = materialise({"weight": box}, jax.random.key(0), {"weight": sharding})["weight"]
    for shard in cut.addressable_shards:
        assert shard.data.size == whole.size // mesh.size
        np.testing.assert_array_equal(shard.data, np.asarray(whole)[shard.index])


def tell_what_is_hashed() -> None:
    """Prints a line for every file whose digest restoring a checkpoint takes."""
    restore, digest = training.CheckpointStore.restore, manifest.file_digest

    def telling(*arguments, **options):
        manifest.file_digest = lambda path: print(f"hashed {path}") or digest(path)
        try:
            return restore(*arguments, **options)
        finally:
            manifest.file_digest = digest

    training.CheckpointStore.restore = telling


def main(number: int, count: int, port: str, directory: str, stopped: int, mesh_name: str, settings: str) -> None:
    if count > 1:
        join(ProcessGroup(f"127.0.0.1:{port}", count, number, 120.0), {"seed": "0"})
    mesh = make_mesh(mesh_name)
    share, shares = row_share(mesh, number)
    own = slice(share * ROWS // shares, (share + 1) * ROWS // shares)

    def own_rows(seed: int):
        return jax.tree.map(lambda rows: rows[own], random_batch(seed, rows=ROWS))

    asked = []

    def batches(first: int):
        for step in range(first, 1000):
            if asked and "log_every" in settings:
                time.sleep(0.1)  # a run that would last for minutes more
            if step == 7 and number == stopped:
                asked.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGTERM)
            yield own_rows(100 + step)

    check_own_shards()
    tell_what_is_hashed()
    if number:
        training.MetricsFile = None  # opened by several at once, the file would lose lines
    run = dataclasses.replace(toy_run(pathlib.Path(directory), **json.loads(settings)), mesh=mesh)
    with StopSignals() as stop:
        state = training.fit(run, toy_start(), StageData(batches, (own_rows(99),)), PlainReporter(), stop)
    if asked:
        print(f"left {time.monotonic() - asked[0]:.1f} seconds after the signal")
    bias = np.asarray(state.parameters["linear"]["bias"].addressable_data(0))
    print(f"left after step {int(state.step)} with {bias.tobytes().hex()}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), *sys.argv[6:])
