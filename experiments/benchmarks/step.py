"""How fast a training step is: forward, backward and optimizer, on a real packed batch of the sample.

    python experiments/benchmarks/step.py [--config experiments/tabletop.py:demo] [--stage video]
    python experiments/benchmarks/step.py --config experiments/wan.py:5b --chip h200 --set mesh=laptop \
        --set dataset.root=data_specs/sample --set data.rows=6 --set data.row_frames=17      # one GPU of 141 GB

The batch is packed from events of the config's dataset, whose pictures are brought to the model's size by repeating
pixels. Parameters are random numbers, drawn on the device.

The last line is one JSON object:

* `step_s` is the median of the steps, `tokens` counts real video tokens (and action draws), `packing_efficiency` the
  share of latent slots that hold an event.
* `optimizer_s` is the median of the optimizer's update in a program of its own, from gradients to new parameters;
  `optimizer_share` is that over `step_s`. (The step's other work on parameters, their average and the test for finite
  gradients, is not in it.)
* `mfu`, with `--chip` (a row of `wallwm_jax.plan.hardware`): the model's operations, forward and backward on every slot
  of the batch without what remat computes again, over what the chip could do at its published bf16 peak in `step_s`.
"""

import argparse
import json
import pathlib
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wallwm_jax.core.config import load
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.core.rng import stream
from wallwm_jax.core.trees import parameter_count
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.curate import curate
from wallwm_jax.data.pipeline import EventLoader
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.plan.hardware import CHIPS
from wallwm_jax.plan.operations import Operations, count_operations
from wallwm_jax.plan.roofline import utilisation
from wallwm_jax.plan.step import AbstractStep, abstract_step
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.state import TrainState
from wallwm_jax.train.world_action import loader_settings

SPREAD = 0.02
"""Standard deviation of the random parameters: activations of any width stay finite, and products are of no zeros."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="experiments/tabletop.py:demo")
    parser.add_argument("--stage", default="video", choices=("video", "action"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chip", choices=sorted(CHIPS), help="whose published peak MFU is measured by")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config, stage = load(options.config, options.set), stage_of(options.stage)
    settings, mesh = loader_settings(stage, config), make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as folder:
        curate(config.dataset.root, pathlib.Path(folder) / "curated", config.dataset.embodiment)
        dataset = CuratedDataset.open(pathlib.Path(folder) / "curated")
        loader = EventLoader(dataset, settings, seed=config.seed)
        packed, efficiency = loader[0], loader.pool(0).efficiency(settings.row_frames)
    step = abstract_step(stage, config, len(dataset.views), mesh)
    plain = abstract_step(stage, config, len(dataset.views), mesh, remat="none")
    operations = count_operations(step, plain)
    with jax.set_mesh(mesh):
        result = measure(step, fitted(packed, step.batch), options.steps)
    if options.chip:
        mfu = utilisation(CHIPS[options.chip], operations.model, mesh.size, result["step_s"])
        result |= {"chip": options.chip, "mfu": round(mfu, 4)}
    print(json.dumps(result | described(config, step, operations, efficiency)))


def measure(step: AbstractStep, batch: EventBatch, steps: int) -> dict[str, Any]:
    """Compiles the stage's true train step and times it, one step at a time; and then its optimizer alone."""
    batch = jax.device_put(batch, jax.tree.map(lambda leaf: leaf.sharding, step.batch))
    state = random_state(step)
    started = time.monotonic()
    program = step.programs.step.lower(step.state, step.batch).compile()
    compile_s = time.monotonic() - started
    seconds, (state, metrics) = timed(lambda carried: program(carried[0], batch), (state, None), steps)
    median, tokens, events = statistics.median(seconds), float(metrics["tokens"]), float(batch.segment_mask.sum())
    statistics_of_memory = jax.local_devices()[0].memory_stats() or {}
    result = {
        "tokens_per_s": round(tokens / median, 1),
        "step_s": round(median, 4),
        "step_min_s": round(min(seconds), 4),
        "events_per_s": round(events / median, 1),
        "tokens": tokens,
        "compile_s": round(compile_s, 1),
        "peak_gib": round(statistics_of_memory.get("peak_bytes_in_use", 0) / 2**30, 2) or None,
        "skipped": int(state.skipped),
    }
    trained, moments = freeze.split(state.parameters, step.run.stage.trains)[0], state.optimizer_state
    del state  # frozen towers and the average make room for gradients and updates
    optimizer_s = statistics.median(optimizer_seconds(step, trained, moments, steps))
    return result | {"optimizer_s": round(optimizer_s, 4), "optimizer_share": round(optimizer_s / median, 4)}


def optimizer_seconds(step: AbstractStep, parameters: Any, moments: Any, steps: int) -> list[float]:
    """Of its update of the trained parameters, on random gradients; consumes what it is given."""
    run = step.run
    declared, _ = freeze.split(run.declarations, run.stage.trains)
    optimizer = build_optimizer(run.settings.optimizer, declared, run.mesh)
    gradients = random_like(freeze.split(step.state.parameters, run.stage.trains)[0], 1)

    def update(trained: Any, before: Any, slopes: Any) -> tuple[Any, Any]:
        updates, after = optimizer.update(slopes, before, trained)
        return optax.apply_updates(trained, updates), after

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (parameters, moments))
    program = jax.jit(update, donate_argnums=(0, 1), out_shardings=shardings)
    return timed(lambda carried: program(*carried, gradients), (parameters, moments), steps)[0]


def timed(function: Callable[[Any], Any], carried: Any, times: int) -> tuple[list[float], Any]:
    """Seconds of every call of `function` on what it returned before, after a first one that warms up."""
    seconds = []
    for number in range(times + 1):
        started = time.monotonic()
        carried = jax.block_until_ready(function(carried))
        if number:
            seconds.append(time.monotonic() - started)
    return seconds, carried


def random_state(step: AbstractStep) -> TrainState:
    """A state of the step's shapes, in its places; the optimizer's is that of step 0."""
    state = step.state
    parameters, average = random_like(state.parameters, 0), random_like(state.average, 0)
    rest = state._replace(parameters=None, average=None)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), rest)
    return zeros._replace(parameters=parameters, average=average)


def random_like(shapes: Any, seed: int) -> Any:
    """Numbers of no meaning. Not those of `models.initialise`, which come by way of the host: minutes for billions."""
    draw = jax.jit(lambda key, shape: SPREAD * jax.random.normal(key, shape), static_argnums=1)
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(stream(seed, "step_benchmark"), len(leaves))
    drawn = [
        jax.device_put(draw(key, leaf.shape), leaf.sharding).astype(leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def fitted(batch: EventBatch, shapes: EventBatch) -> EventBatch:
    """A batch whose pictures and cells have the sizes of `shapes`, by repeating the nearest; cameras follow."""
    (*_, height, width, _), (*_, rows, columns, _) = batch.frames.shape, shapes.frames.shape
    cells = shapes.border_mask.shape[-1]
    intrinsics = batch.intrinsics * np.array([columns / width, rows / height, 1], np.float32)[:, None]
    resized = batch._replace(
        frames=nearest(nearest(batch.frames, rows, -3), columns, -2),
        border_mask=nearest(nearest(batch.border_mask, shapes.border_mask.shape[-2], -2), cells, -1),
        intrinsics=np.where(batch.camera_mask[..., None, None], intrinsics, batch.intrinsics),
    )
    for name, found, wanted in zip(batch._fields, resized, shapes, strict=True):
        if found is not None and found.shape != wanted.shape:
            raise ValueError(f"{name}: found {found.shape}, expected {wanted.shape}")
    return resized


def nearest(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    length = values.shape[axis]
    return values if length == size else np.take(values, np.arange(size) * length // size, axis)


def described(config: Any, step: AbstractStep, operations: Operations, efficiency: float) -> dict[str, Any]:
    """What was measured."""
    run, device = step.run, jax.devices()[0]
    frames = step.batch.frames.shape
    return {
        "model_tflop": round(operations.model / 1e12, 3),
        "recomputed_tflop": round(operations.recomputed / 1e12, 3),
        "optimizer_tflop": round(operations.optimizer / 1e12, 3),
        "stage": run.stage.name,
        "variant": config.model.variant,
        "dtype": config.model.dtype,
        "remat": config.model.get("remat", "none"),
        "optimizer": run.settings.optimizer.optimizer,
        "frozen": list(run.settings.freeze),
        "parameters": parameter_count(step.state.parameters),
        "trained": parameter_count(step.state.average),
        "rows": frames[0],
        "row_frames": frames[1],
        "packing_efficiency": round(efficiency, 4),
        "devices": run.mesh.size,
        "platform": device.platform,
        "device": device.device_kind,
        "jax": jax.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }


if __name__ == "__main__":
    main()
