"""Run as a script, once for each of two processes of one run of the toy: number, port, folder, and the process that is
asked to stop (-1 for none). Prints the step that the process has left after, and the learned bias."""

import dataclasses
import os
import pathlib
import signal
import sys

import jax
import numpy as np

from tests.train.synthetic import random_batch
from tests.train.toy import toy_parameters, toy_run
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.train.fit import fit
from wallwm_jax.train.progress import PlainReporter
from wallwm_jax.train.run import StageData
from wallwm_jax.train.stop import StopSignals


def main(number: int, port: str, directory: str, stopped: int) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)

    def share(seed: int):
        return jax.tree.map(lambda rows: rows[number : number + 1], random_batch(seed))

    def batches(first: int):
        for step in range(first, 100):
            if step == 7 and number == stopped:
                os.kill(os.getpid(), signal.SIGTERM)
            yield share(100 + step)

    run = dataclasses.replace(toy_run(pathlib.Path(directory)), mesh=make_mesh("host"))
    with StopSignals() as stop:
        state = fit(run, toy_parameters(), StageData(batches, (share(99),)), PlainReporter(), stop)
    bias = np.asarray(state.parameters["linear"]["bias"].addressable_data(0))
    print(f"left after step {int(state.step)} with {bias.tobytes().hex()}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
