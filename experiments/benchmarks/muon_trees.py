"""Muon's default beside Optax's Muon and beside our own other settings, on seven small and odd trees.

    python experiments/benchmarks/muon_trees.py [--rounds 15] [--trees leaves,stack]

Each optimizer takes a step in turn, on the same gradients, in one process; a step's time is the processor time of the
process, so that other work on the machine counts little. Ratios are medians over the rounds of the rounds' ratios:

* `vs_optax`: the default's time over that of `optax.contrib.muon`; at most 1.
* `vs_best`: the default's time over that of the fastest of our own settings on this tree (`best`); at most 1.1.

The last line is one JSON object, which also goes to `experiments/benchmarks/results/muon_trees.json` when all trees
were measured.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from wallwm_jax.core.errors import InputError
from wallwm_jax.optim import MuonSettings, muon

RESULTS = pathlib.Path("experiments/benchmarks/results/muon_trees.json")
MOST_OF_OPTAX, MOST_OF_BEST = 1.0, 1.1
LEAST_SECONDS = 0.02
OTHERS = {
    f"{iteration}{' by halves' if halves else ''}": MuonSettings(iteration=iteration, halves=halves)
    for iteration, halves in itertools.product(("direct", "gram"), (False, True))
}
"""Our settings that change the time of a step and not its result."""


def gpt(layers: int = 4, width: int = 128, words: int = 512) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of a small GPT, and the rule of every leaf (None: AdamW)."""
    shapes: dict[str, Any] = {"wte": (words, width), "head": (width, words)}
    rules: dict[str, Any] = dict.fromkeys(shapes)
    for layer in range(layers):
        matrices = {
            "qkv": (width, 3 * width), "merge": (width, width), "up": (width, 4 * width), "down": (4 * width, width),
        }  # fmt: skip
        shapes |= {f"{layer} {name}": shape for name, shape in matrices.items()}
        shapes |= {f"{layer} {name} bias": shape[1:] for name, shape in matrices.items()}
        rules |= {f"{layer} {name}": MuonDimensionNumbers(0, 1) for name in matrices}
        rules |= {f"{layer} {name} bias": None for name in matrices}
    return shapes, rules


def single(shape: tuple[int, ...], inputs: Any, outputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"w": shape}, {"w": MuonDimensionNumbers(inputs, outputs)}


TREES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "128 leaves of 32 x 32": (
        {str(leaf): (32, 32) for leaf in range(128)},
        {str(leaf): MuonDimensionNumbers(0, 1) for leaf in range(128)},
    ),
    "512 x 64 x 64": single((512, 64, 64), 1, 2),
    "16 x 4096": single((16, 4096), 0, 1),
    "384 x 1536": single((384, 1536), 0, 1),
    "3 x 3 x 3 x 64 x 128": single((3, 3, 3, 64, 128), (0, 1, 2, 3), 4),
    "gpt": gpt(),
    "8 x 256 x 1024": single((8, 256, 1024), 1, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--trees", help="comma-separated beginnings of their names; all by default")
    options = parser.parse_args()
    chosen = [name for name in TREES if options.trees is None or name.startswith(tuple(options.trees.split(",")))]
    if not chosen or options.rounds < 1:
        raise InputError("--trees, --rounds", [options.trees, options.rounds], f"some of {list(TREES)}, 1 or more")
    found = {name: compare(*TREES[name], rounds=options.rounds) for name in chosen}
    device = jax.devices()[0]
    result = {
        "trees": found,
        "slowest_vs_optax": max(tree["vs_optax"] for tree in found.values()),
        "slowest_vs_best": max(tree["vs_best"] for tree in found.values()),
        "rounds": options.rounds,
        "platform": device.platform,
        "device": device.device_kind,
    }
    result["holds"] = result["slowest_vs_optax"] <= MOST_OF_OPTAX and result["slowest_vs_best"] <= MOST_OF_BEST
    if len(chosen) == len(TREES):
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def compare(shapes: Mapping[str, tuple[int, ...]], rules: Mapping[str, Any], *, rounds: int) -> dict[str, Any]:
    """The default's step beside Optax's and our other settings' on one tree of these shapes."""
    generator = np.random.default_rng(0)
    gradients = {name: jnp.asarray(generator.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    optimizers = {
        "default": muon(1e-3, rules, weight_decay=0.01),
        "optax": optax.contrib.muon(
            1e-3, weight_decay=0.01, consistent_rms=0.2, muon_weight_dimension_numbers=dict(rules)
        ),
        **{name: muon(1e-3, rules, settings, weight_decay=0.01) for name, settings in OTHERS.items()},
    }
    programs = {name: compiled(optimizer, gradients) for name, optimizer in optimizers.items()}
    alike = [name for name in OTHERS if programs[name][1] == programs["default"][1]]
    times = measured({name: step for name, (step, _) in programs.items()}, rounds)
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(times["default"], times[name], strict=True))
        for name in times
    }
    # Where the default comes to the program of one of the settings, their ratio would be noise.
    best = max((name for name in OTHERS if name not in alike), key=lambda name: ratios[name])
    return {
        "vs_optax": round(ratios["optax"], 3),
        "vs_best": round(max(ratios[best], 1.0 if alike else 0.0), 3),
        "best": best,
        "default_is": alike,
        "milliseconds": {name: round(1e3 * statistics.median(times[name]), 2) for name in times},
    }


def compiled(optimizer: optax.GradientTransformation, gradients: Any) -> tuple[Callable[[], Any], str]:
    """A step of the optimizer on these gradients, and the text of its program."""
    state = jax.jit(optimizer.init)(gradients)
    lowered = jax.jit(optimizer.update).lower(gradients, state, gradients)
    step = lowered.compile()
    return lambda: step(gradients, state, gradients), lowered.as_text()


def measured(steps: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time a step, by round. Short steps are repeated up to `LEAST_SECONDS`."""
    repeats = {}
    for name, step in steps.items():
        jax.block_until_ready(step())  # what comes first is slower
        repeats[name] = max(1, round(LEAST_SECONDS / max(seconds(step, 1), 1e-4)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, repeats[name]))
    return times


def seconds(step: Callable[[], Any], repeats: int) -> float:
    started = time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(step())
    return (time.process_time() - started) / repeats


if __name__ == "__main__":
    main()
