"""The Staircase beside thinking step by step and thinking in parallel without seeing each other: time, work, accuracy.

    python experiments/benchmarks/staircase.py [--layers 24 --relay-depth 16 --latents 8 --width 1024 --prompt 256]
    python experiments/benchmarks/staircase.py --run runs/tabletop [--steps 300 --seeds 3]

Time and work of K latents after one prompt: the schedules run in turn in one process, on the same random weights; times
are medians over the rounds. The prompt's own pass is the same for all and is not counted. A round is `--calls` calls,
waited for once: on an accelerator several hide what the host needs to hand one over.

Accuracy needs a run whose stage 3 is finished: the branch is trained from scratch under every schedule, on the same
frozen trunk and from the same seeds, and what counts is the share of the held-out traces' tokens that the small
language model then finds likeliest. What is trained stays in `<run>/staircase_benchmark`, and is found again.

The last line is one JSON object.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from wallwm_jax.core.config import from_json
from wallwm_jax.core.flops import matmul_flops
from wallwm_jax.core.mesh import make_mesh
from wallwm_jax.core.rng import stream
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.planning import PlanSettings, PlanWriter, episode_plans
from wallwm_jax.evaluate.language import trace_accuracy
from wallwm_jax.models.initialise import init_reasoner
from wallwm_jax.nn.drawing import materialise
from wallwm_jax.nn.staircase import SCHEDULES, Staircase, StaircaseSizes, staircase_flops
from wallwm_jax.nn.vision_language import VisionLanguageSizes, VisionLanguageTrunk
from wallwm_jax.train.architecture import reasoner_of
from wallwm_jax.train.checkpoint import read_checkpoint
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.fit import fit
from wallwm_jax.train.progress import PlainReporter
from wallwm_jax.train.reasoner import plan_data
from wallwm_jax.train.run import Run, Start
from wallwm_jax.train.settings import stage_settings
from wallwm_jax.train.state import averaged_parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 24), ("relay-depth", 16), ("latents", 8), ("width", 1024), ("prompt", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1, help="calls a round")
    parser.add_argument("--run", type=pathlib.Path, help="a run's workdir, to train branches in and compare them")
    parser.add_argument("--steps", type=int, default=300, help="training steps of every branch")
    parser.add_argument("--seeds", type=int, default=3, help="branches of every schedule")
    options = parser.parse_args()
    result = cost(options)
    if options.run:
        result |= accuracies(options.run, options.steps, options.seeds)
    settings = {name: str(value) if name == "run" and value else value for name, value in vars(options).items()}
    print(json.dumps(result | settings | {"platform": jax.devices()[0].platform}))


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Time and work of every schedule."""
    heads = options.width // 64
    sizes = VisionLanguageSizes(
        layers=options.layers,
        embed=options.width,
        heads=heads,
        key_heads=max(1, heads // 4),
        mlp=11 * options.width // 4,
        head_dim=64,
        sections=(12, 10, 10),
        vocabulary=259,
    )
    trunk = VisionLanguageTrunk(sizes)
    branch = Staircase(StaircaseSizes(trunk=sizes, relay_depth=options.relay_depth, latents=options.latents))
    text = jnp.arange(options.prompt)[None] % 259
    prompt = (None, None, text, jnp.ones(text.shape, bool))
    weights = random_weights(trunk, 0, *prompt)
    features = jax.jit(lambda weights: trunk.apply({"params": weights}, *prompt, method="read"))(weights)
    own = random_weights(branch, 1, features.hidden[0], features.mask, weights["blocks"])

    programs, work = {}, {}
    for schedule in SCHEDULES:

        def think(own, weights, features, schedule=schedule):
            return branch.apply({"params": own}, features, weights["blocks"], schedule, method="think")

        work[schedule] = matmul_flops(think, own, weights, features)
        programs[schedule] = jax.jit(think).lower(own, weights, features).compile()
    seconds = {name: [] for name in SCHEDULES}
    for round_number in range(options.rounds + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            jax.block_until_ready([program(own, weights, features) for _ in range(options.calls)])
            if round_number:  # the first round warms up
                seconds[name].append((time.perf_counter() - started) / options.calls)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "time_ratio_vs_serial": round(middle["serial"] / middle["staircase"], 2),
        "flops_over_formula": round(work["staircase"] / staircase_flops(branch.sizes, options.prompt), 4),
        "seconds": {name: round(value, 4) for name, value in middle.items()},
        "gigaflops": {name: round(value / 1e9, 3) for name, value in work.items()},
    }


def accuracies(run: pathlib.Path, steps: int, seeds: int) -> dict[str, Any]:
    """Mean token accuracy of every schedule over the seeds, and each by itself."""
    found: dict[str, list[float]] = {schedule: [] for schedule in SCHEDULES}
    for seed in range(seeds):
        for schedule in SCHEDULES:
            found[schedule].append(trained_accuracy(run, schedule, seed, steps))
            print(f"{schedule}, seed {seed}: {found[schedule][-1]:.4f}", flush=True)
    means = {f"accuracy_{schedule}": round(statistics.mean(values), 4) for schedule, values in found.items()}
    return means | {"accuracies": {name: [round(value, 4) for value in values] for name, values in found.items()}}


def trained_accuracy(run: pathlib.Path, schedule: str, seed: int, steps: int) -> float:
    """Trains a branch from scratch on the run's frozen trunk and judges it on the held-out episodes."""
    config, curated = from_json((run / "config.json").read_text()), CuratedDataset.open(run / "curated")
    checkpoint = read_checkpoint(run / "conditioner" / "checkpoints")
    model, stage = reasoner_of(checkpoint.records.model), stage_of("staircase")
    section = config.stages.staircase.to_dict()
    section |= {"steps": steps, "objective": section["objective"] | {"schedule": schedule}}
    settings, data = stage_settings(stage, section), plan_data(stage, config, curated, section["eval_batches"])
    fresh, declarations = init_reasoner(model, stream(seed, "staircase_benchmark"), data.heldout[0])
    parameters = {**checkpoint.averaged, "staircase": fresh["staircase"]}
    directory = run / "staircase_benchmark" / f"{schedule}-{seed}-{steps}"
    records = checkpoint.records._replace(config={**checkpoint.records.config, "schedule": schedule})
    whole = Run(stage, model, declarations, settings, make_mesh(config.mesh), seed, records, directory)
    trained = averaged_parameters(fit(whole, Start.given(parameters), data, PlainReporter()), stage)
    writer = PlanWriter(curated, PlanSettings.from_config(config.planning), model.text_length)
    return trace_accuracy(model, trained, episode_plans(curated, "heldout"), writer, schedule)


def random_weights(module, seed: int, *arguments):
    """Plain arrays, as `init` would draw them."""
    return materialise(jax.eval_shape(module.init, jax.random.key(0), *arguments), jax.random.key(seed))["params"]


if __name__ == "__main__":
    main()
