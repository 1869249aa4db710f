"""How fast a training step is: forward, backward and optimizer, on a real packed batch of the sample.

    python experiments/benchmarks/step.py [--config experiments/tabletop.py:demo] [--stage video]

The last line is one JSON object; `step_s` is the median, `tokens` counts real video tokens (and action draws).
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import jax

from wallwm_jax.core.config import load
from wallwm_jax.core.mesh import batch_sharding, make_mesh
from wallwm_jax.core.rng import stream
from wallwm_jax.core.trees import parameter_count
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.curate import curate
from wallwm_jax.data.pipeline import EventLoader
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.train.architecture import build_model
from wallwm_jax.train.settings import configured_stage
from wallwm_jax.train.stages import stage_of
from wallwm_jax.train.state import create_state
from wallwm_jax.train.step import make_train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="experiments/tabletop.py:demo")
    parser.add_argument("--stage", default="video", choices=("video", "action"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = load(options.config, options.set)
    settings, mesh = LoaderSettings.from_config(config.data), make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as folder:
        curate(config.dataset.root, pathlib.Path(folder) / "curated", config.dataset.embodiment)
        dataset = CuratedDataset.open(pathlib.Path(folder) / "curated")
        loader = EventLoader(dataset, settings, seed=config.seed)
        host_batch, efficiency = loader[0], loader.pool(0).efficiency(settings.row_frames)
    with jax.set_mesh(mesh):
        result = measure(config, options.stage, options.steps, host_batch, mesh, len(dataset.views))
    result |= {"packing_efficiency": round(efficiency, 4), "rows": settings.rows, "row_frames": settings.row_frames}
    print(json.dumps(result | {"devices": mesh.size, "platform": jax.devices()[0].platform}))


def measure(config, stage_name: str, steps: int, host_batch, mesh, views: int) -> dict:
    """Compiles the stage's true train step and times it, one step at a time."""
    stage, settings = configured_stage(stage_of(stage_name), config.stages[stage_name])
    model = build_model(config.model, views)
    parameters, declarations = init_parameters(model, stream(config.seed, "init"), host_batch)
    optimizer = build_optimizer(settings.optimizer, freeze.split(declarations, stage.trains)[0])
    state = create_state(stage, optimizer, parameters)
    batch = jax.device_put(host_batch, batch_sharding(mesh))
    started = time.monotonic()
    step = jax.jit(make_train_step(model, stage, optimizer, settings, config.seed), donate_argnums=0)
    step = step.lower(state, batch).compile()
    compile_s, seconds = time.monotonic() - started, []
    for _ in range(steps):
        started = time.monotonic()
        state, metrics = jax.block_until_ready(step(state, batch))
        seconds.append(time.monotonic() - started)
    median, tokens, events = statistics.median(seconds), float(metrics["tokens"]), float(host_batch.segment_mask.sum())
    return {
        "tokens_per_s": round(tokens / median, 1),
        "step_s": round(median, 4),
        "step_min_s": round(min(seconds), 4),
        "events_per_s": round(events / median, 1),
        "tokens": tokens,
        "compile_s": round(compile_s, 1),
        "stage": stage_name,
        "variant": config.model.variant,
        "dtype": config.model.dtype,
        "parameters": parameter_count(parameters),
    }


if __name__ == "__main__":
    main()
