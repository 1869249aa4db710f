"""What the Staircase costs beside thinking step by step: time and work of K latents after one prompt.

    python experiments/benchmarks/staircase.py [--layers 24 --relay-depth 16 --latents 8 --width 1024 --prompt 256]

The schedules run in turn in one process, on the same random weights; times are medians over the rounds. The prompt's
own pass is the same for all and is not counted. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from wallwm_jax.core.flops import matmul_flops
from wallwm_jax.nn.parameters import materialise
from wallwm_jax.nn.staircase import SCHEDULES, Staircase, staircase_flops
from wallwm_jax.nn.vision_language import VisionLanguage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 24), ("relay-depth", 16), ("latents", 8), ("width", 1024), ("prompt", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    heads = options.width // 64
    sizes = {"language_embed": options.width, "heads": heads, "key_heads": max(1, heads // 4), "head_dim": 64}
    sizes |= {"mlp": 11 * options.width // 4, "vocabulary": 259, "view": 0}
    sections = (12, 10, 10)
    trunk = VisionLanguage(options.layers, sizes, sections)
    branch = Staircase(options.layers, options.relay_depth, options.latents, sizes, sections)
    text = jnp.arange(options.prompt)[None] % 259
    prompt = (None, None, text, jnp.ones(text.shape, bool))
    weights = random_weights(trunk, 0, *prompt)
    features = jax.jit(lambda weights: read(trunk, weights, prompt))(weights)
    own = random_weights(branch, 1, features, weights["blocks"])

    programs, work = {}, {}
    for schedule in SCHEDULES:

        def think(own, weights, features, schedule=schedule):
            return branch.apply({"params": own}, features, weights["blocks"], schedule)

        work[schedule] = matmul_flops(think, own, weights, features)
        programs[schedule] = jax.jit(think).lower(own, weights, features).compile()
    seconds = {name: [] for name in SCHEDULES}
    for round_number in range(options.rounds + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(own, weights, features))
            if round_number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "time_ratio_vs_serial": round(middle["serial"] / middle["staircase"], 2),
        "flops_over_formula": round(work["staircase"] / staircase_flops(branch, options.prompt), 4),
        "seconds": {name: round(value, 4) for name, value in middle.items()},
        "gigaflops": {name: round(value / 1e9, 3) for name, value in work.items()},
    }
    print(json.dumps(result | vars(options) | {"platform": jax.devices()[0].platform}))


def random_weights(module, seed: int, *arguments):
    """Plain arrays, as `init` would draw them."""
    return materialise(jax.eval_shape(module.init, jax.random.key(0), *arguments), jax.random.key(seed))["params"]


def read(trunk: VisionLanguage, weights, prompt):
    """The trunk's features of a prompt."""
    tokens = trunk.apply({"params": weights}, *prompt, method="embed")
    return trunk.apply({"params": weights}, tokens, method="features")


if __name__ == "__main__":
    main()
