"""Our Muon beside Optax's: time of an optimizer step, temporary memory, and how orthogonal the updates are.

    python experiments/benchmarks/muon.py [--layers 12 --width 512 --rounds 7]

Two trees of the same transformer matrices: a leaf for every layer's, and every kind stacked over the layers as
`nn.scan` leaves them. The optimizers step in turn in one process, on the same gradients; times are medians over the
rounds, ratios are medians of the rounds' ratios. Orthogonality is 1 - cosine between an update and U V^T, the mean over
flat, power-law and exponential spectra.

The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from wallwm_jax.core.axes import Declaration, declare
from wallwm_jax.optim.muon import MuonSettings, muon
from wallwm_jax.optim.newton_schulz import SAFE_RESTARTS, orthogonalize
from wallwm_jax.optim.polynomials import POLYNOMIALS, polynomials_of

HEAD = 64
KINDS = {
    "query": "embed -> heads head_dim",
    "key": "embed -> heads head_dim",
    "value": "embed -> heads head_dim",
    "merge": "heads head_dim -> embed",
    "up": "embed -> mlp",
    "down": "mlp -> embed",
}
SPECTRA = ("flat", "power", "exponential")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 12), ("width", 512), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    loose, stacked = (steps(options, stack) for stack in (False, True))
    ours, theirs = orthogonality(options.width)
    result = {
        "step_ratio_vs_optax": loose["ratio"],
        "stacked_ratio_vs_optax": stacked["ratio"],
        "temp_mem_ratio": max(loose["memory_ratio"], stacked["memory_ratio"]),
        "orth_error_ratio": round(ours / theirs, 4),
        "orth_error": {"ours": ours, "optax": theirs},
        "seconds": {"unscanned": loose["seconds"], "scanned": stacked["seconds"]},
    }
    print(json.dumps(result | vars(options) | {"platform": jax.devices()[0].platform}))


def steps(options: argparse.Namespace, stack: bool) -> dict[str, Any]:
    """Every optimizer's step on one tree, in turn."""
    rules = declarations(options.layers, stack)
    sizes = {"layers": options.layers, "embed": options.width, "heads": options.width // HEAD, "head_dim": HEAD}
    sizes["mlp"] = 4 * options.width
    generator = np.random.default_rng(0)
    gradients = {
        name: jnp.asarray(generator.normal(size=rule.shape(sizes)), jnp.float32) for name, rule in rules.items()
    }
    compiled, states = {}, {}
    for name, optimizer in optimizers(rules).items():
        states[name] = jax.jit(optimizer.init)(gradients)
        step = jax.jit(optimizer.update, donate_argnums=1)
        compiled[name] = step.lower(gradients, states[name], gradients).compile()
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(options.rounds + 1):
        for name, step in compiled.items():
            started = time.perf_counter()
            _, states[name] = jax.block_until_ready(step(gradients, states[name], gradients))
            seconds[name].append(time.perf_counter() - started)
    measured = {name: times[1:] for name, times in seconds.items()}
    ratios = [theirs / ours for ours, theirs in zip(measured["muon"], measured["optax"], strict=True)]
    memory = {name: step.memory_analysis().temp_size_in_bytes for name, step in compiled.items()}
    return {
        "ratio": round(statistics.median(ratios), 3),
        "memory_ratio": round(memory["muon"] / memory["optax"], 3),
        "seconds": {name: round(statistics.median(times), 4) for name, times in measured.items()},
    }


def declarations(layers: int, stack: bool) -> dict[str, Declaration]:
    if stack:
        return {kind: declare(text).stacked("layers") for kind, text in KINDS.items()}
    return {f"{kind} {layer}": declare(text) for layer in range(layers) for kind, text in KINDS.items()}


def optimizers(rules: Mapping[str, Declaration]) -> dict[str, optax.GradientTransformation]:
    """Ours and Optax's with the same polynomials, momentum and scale; and AdamW."""
    numbers = {name: optax.contrib.MuonDimensionNumbers(*rule.matrix_order()[1:]) for name, rule in rules.items()}
    chosen = MuonSettings(iteration="cheapest")
    return {
        "muon": muon(1e-3, rules, chosen, weight_decay=0.01),
        "optax": optax.contrib.muon(
            1e-3,
            tuple(polynomials_of(chosen.coefficients, chosen.steps)),
            weight_decay=0.01,
            consistent_rms=chosen.consistent_rms,
            muon_weight_dimension_numbers=numbers,
        ),
        "adamw": optax.adamw(1e-3, weight_decay=0.01),
    }


def orthogonality(width: int) -> tuple[float, float]:
    """Mean 1 - cosine with U V^T over the spectra: ours as it is set by default, and Optax's default polynomial."""
    ours, theirs = [], []
    for spectrum in SPECTRA:
        values, polar = matrices(spectrum, width, 2 * width)
        for errors, chosen, restarts in (
            (ours, polynomials_of("polar_express", 5), SAFE_RESTARTS),
            (theirs, POLYNOMIALS["keller_jordan"] * 5, None),
        ):
            found = np.asarray(orthogonalize(values, chosen, restarts=restarts), np.float64)
            errors.append(1 - float(np.sum(found * polar) / np.linalg.norm(found) / np.linalg.norm(polar)))
    return float(np.mean(ours)), float(np.mean(theirs))


def matrices(spectrum: str, rows: int, columns: int) -> tuple[jax.Array, np.ndarray]:
    left, singular, right = np.linalg.svd(np.random.default_rng(1).normal(size=(rows, columns)), full_matrices=False)
    index = np.arange(1, rows + 1)
    singular = {"flat": singular, "power": 1.0 / index, "exponential": np.exp(-5.0 * index / rows)}[spectrum]
    return jnp.asarray((left * singular) @ right, jnp.float32)[None], (left @ right)[None]


if __name__ == "__main__":
    main()
