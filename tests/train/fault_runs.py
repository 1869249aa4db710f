"""Run as a script: trains the toy in one forked process a request, each with a fault, and says how it ended.

A request is a line of JSON on standard input, {"directory", "fault", "happening", "steps", "checkpoint_every"}; the
answer one on standard output, {"code", "output"}. Imports are paid once: a process that has only imported JAX can fork.
"""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import sys
import threading

import grain  # noqa: F401 (imported before the fork)
import jax

from tests.train.synthetic import random_batch
from tests.train.toy import TOY, toy_data, toy_loss, toy_run, toy_start
from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.trees import digest
from wallwm_jax.data.pipeline import batches_of
from wallwm_jax.train.faults import Fault
from wallwm_jax.train.fit import fit
from wallwm_jax.train.progress import PlainReporter
from wallwm_jax.train.run import StageData
from wallwm_jax.train.stop import UNFINISHED, StopSignals

STEP = 7
"""Where things happen that are no `Fault`."""


class Batches:
    """Random access, so that worker processes can make them; with `deadly` the worker dies at `STEP`."""

    def __init__(self, deadly: bool):
        self.deadly = deadly

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, step: int):
        if self.deadly and step == STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        return random_batch(100 + step)


def happening_at(step: int, happen):
    """The toy's data; before batch `step` something happens to the process."""

    def batches(first: int):
        for number in range(first, 1000):
            if number == step:
                happen()
            yield random_batch(100 + number)

    return StageData(batches, toy_data().heldout)


def full_disk() -> None:
    """From now on no file can grow beyond a size that the toy's metrics stay below and its checkpoints do not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stop_while_tracing(*arguments):
    """The toy's loss, whose compilation is asked to stop and then takes for ever."""
    ask_to_stop()
    threading.Event().wait(300)
    return toy_loss(*arguments)


HAPPENINGS = {"SIGTERM": ask_to_stop, "full disk": full_disk}


def train(request) -> int:
    """One run; prints the digest of the state it ends with and returns the exit code."""
    happening = request.get("happening")
    data = toy_data()
    if happening in HAPPENINGS:
        data = happening_at(STEP, HAPPENINGS[happening])
    if happening == "dead worker":
        data = StageData(lambda first: batches_of(Batches(True), first, workers=1), data.heldout)
    stage = dataclasses.replace(TOY, objective=stop_while_tracing) if happening == "SIGTERM while compiling" else TOY
    fault = request.get("fault") and Fault.parse(request["fault"])
    settings = {name: request[name] for name in ("steps", "checkpoint_every") if name in request}
    run = toy_run(pathlib.Path(request["directory"]), fault, stage, **settings)
    with StopSignals() as stop:
        state = fit(run, toy_start(), data, PlainReporter(), stop)
    print(f"step {int(state.step)} digest {digest(state)}", flush=True)
    return 0 if int(state.step) == run.settings.run.steps else UNFINISHED


def child(request, output: int) -> None:
    """What the forked process does instead of returning."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 3
    try:
        code = train(request)
    except (InputError, RunError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        code = 2 if isinstance(error, InputError) else 1
    finally:
        os._exit(code)


def main(cache: str) -> None:
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for line in sys.stdin:
        request, (reading, writing) = json.loads(line), os.pipe()
        process = os.fork()
        if not process:
            os.close(reading)
            child(request, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps({"code": code, "output": text}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
