"""Our Muon beside Optax's and AdamW: time and memory here, shares and traffic on machines that are not here.

    python experiments/benchmarks/muon.py [--layers 8 --width 1024 --rounds 3]
    python experiments/benchmarks/muon.py --products bfloat16 --whole --rounds 10    # on a GPU
    python experiments/benchmarks/muon.py --compile     # minutes: compiles for TPUs anew (extra `plan`)

The last line is one JSON object.

* `step_ratio_vs_optax`, `stacked_ratio_vs_optax`: Optax's time of an optimizer step over ours, on two trees of the same
  transformer matrices: a leaf for every layer's, and every kind stacked over the layers as `nn.scan` leaves them. The
  optimizers step in turn in one process, on the same gradients; times are medians over the rounds, ratios are medians
  of the rounds' ratios. `temp_mem_ratio`: our temporary memory over Optax's, the worse of the two trees.
* `orth_error_ratio`: 1 - cosine between an update and U V^T, the mean over flat, power-law and exponential spectra;
  ours over Optax's. `orth_error` has it by spectrum, `largest_singular_value` what no update's are above.
* `ns_flops_fraction_8dev`: what the busiest of eight devices does in Newton-Schulz iterations with parameters sharded
  over all (FSDP), over an eighth of what one device does alone: 1 is ideal. `iteration_collectives`: collectives inside
  the iterations of that program. Both from the program that XLA compiles for eight simulated devices; its products
  agree with the analytic counter (`counter_vs_compiled`), and the products that were read from it with what XLA itself
  counts, which also counts sums and takes every loop once (`products_vs_cost_analysis`). `on_eight_tpus`: the same of
  eight chips of v5p as compiled, with `--compile`.
* `traffic_ratio_vs_optax_v5p64`: what Muon adds to the bytes that a chip sends with AdamW, over what Optax's Muon adds;
  `overhead_vs_adamw_5b`: by how much it prolongs the step. Stage 1 of the 5B model on 64 chips of v5p as compiled, from
  the plans in `--plans`, which `--compile` makes. The prediction is a roofline at published peaks, in which compute,
  HBM and network run beside each other (`overlapped`). `overhead_bounds` also has it with nothing overlapping
  (`serial`), and with nothing of what Muon adds overlapping, behind an AdamW step in which all does (`behind`).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from wallwm_jax.core.axes import Declaration, declare
from wallwm_jax.core.errors import InputError
from wallwm_jax.optim import MuonSettings, muon
from wallwm_jax.optim.newton_schulz import RESTART_EVERY, orthogonalize
from wallwm_jax.optim.polynomials import polynomials_of

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
SETTINGS = MuonSettings(coefficients="polar_close", norm="schatten", iteration="cheapest", halves=True, exact_steps=0)
RESULTS = pathlib.Path("experiments/benchmarks/results")
PLANS = {"muon": "plan_5b.json", "adamw": "plan_5b_adamw.json", "optax_muon": "plan_5b_optax_muon.json"}
PLANNED = ("stage", "frozen", "topology", "mesh", "parameters", "batch")
"""What the plans must have in common."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("width", 1024), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--products", choices=sorted(RESTART_EVERY), default="float32", help="dtype of our products")
    parser.add_argument("--whole", action="store_true", help="our symmetric products whole, not by halves")
    parser.add_argument("--plans", type=pathlib.Path, default=RESULTS, help="folder of the three plans")
    parser.add_argument("--compile", action="store_true", help="make the plans first, and look at eight TPUs")
    options = parser.parse_args()
    if options.compile:
        make_plans(options.plans)
    on_tpus = on_eight_devices(options.layers, options.width, "v5p:2x2x2") if options.compile else None
    settings = dataclasses.replace(SETTINGS, products=options.products, halves=not options.whole)
    planned, shared = compare_plans(options.plans), on_eight_devices(options.layers, options.width)
    loose, stacked = (steps(options, settings, stack) for stack in (False, True))
    ours, theirs = orthogonality(options.width, settings)
    result = {
        "step_ratio_vs_optax": loose["ratio"],
        "stacked_ratio_vs_optax": stacked["ratio"],
        "temp_mem_ratio": max(loose["memory_ratio"], stacked["memory_ratio"]),
        "orth_error_ratio": round(sum(ours.errors.values()) / sum(theirs.errors.values()), 4),
        **shared,
        **planned,
        "on_eight_tpus": on_tpus,
        "orth_error": {"ours": ours.errors, "optax": theirs.errors},
        "largest_singular_value": {"ours": ours.largest, "optax": theirs.largest},
        "seconds": {"unscanned": loose["seconds"], "scanned": stacked["seconds"]},
    }
    given = {name: getattr(options, name) for name in ("layers", "width", "rounds", "products", "whole")}
    device = jax.devices()[0]
    print(json.dumps(result | given | {"platform": device.platform, "device": device.device_kind}))


def steps(options: argparse.Namespace, settings: MuonSettings, stack: bool) -> dict[str, Any]:
    """Every optimizer's step on one tree, in turn."""
    rules, generator = declarations(options.layers, stack), np.random.default_rng(0)
    gradients = {
        name: jnp.asarray(generator.normal(size=shape), jnp.float32)
        for name, shape in shapes(rules, options.layers, options.width).items()
    }
    compiled, states = {}, {}
    for name, optimizer in optimizers(rules, settings).items():
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


def shapes(rules: Mapping[str, Declaration], layers: int, width: int) -> dict[str, tuple[int, ...]]:
    sizes = {"layers": layers, "embed": width, "heads": width // HEAD, "head_dim": HEAD, "mlp": 4 * width}
    return {name: rule.shape(sizes) for name, rule in rules.items()}


def optimizers(rules: Mapping[str, Declaration], settings: MuonSettings) -> dict[str, optax.GradientTransformation]:
    """Ours as `settings` has it; Optax's with its own five steps, and the same momentum and scale; and AdamW."""
    numbers = {name: optax.contrib.MuonDimensionNumbers(*rule.matrix_order()[1:]) for name, rule in rules.items()}
    return {
        "muon": muon(1e-3, rules, settings, weight_decay=0.01),
        "optax": optax.contrib.muon(
            1e-3,
            weight_decay=0.01,
            consistent_rms=settings.consistent_rms,
            muon_weight_dimension_numbers=numbers,
        ),
        "adamw": optax.adamw(1e-3, weight_decay=0.01),
    }


class Closeness(NamedTuple):
    """By spectrum: 1 - cosine of what an iteration makes of a matrix with U V^T, and its largest singular value."""

    errors: dict[str, float]
    largest: dict[str, float]


def orthogonality(width: int, settings: MuonSettings) -> tuple[Closeness, Closeness]:
    """Of ours as `settings` has it, and of Optax's polynomial in fp32."""
    exact = settings.exact(1)
    options = {"restarts": settings.restarts(width, 2 * width, settings.coefficients, exact), "exact_steps": exact}
    options |= {"dtype": settings.products, "norm": settings.norm, "halves": settings.halves}
    runs = ((settings.coefficients, options), ("keller_jordan", {}))
    found = Closeness({}, {}), Closeness({}, {})
    for spectrum in SPECTRA:
        values, polar = matrices(spectrum, width, 2 * width)
        for (name, chosen), closeness in zip(runs, found, strict=True):
            update = np.asarray(orthogonalize(values, polynomials_of(name, settings.steps), **chosen), np.float64)
            cosine = float(np.sum(update * polar) / np.linalg.norm(update) / np.linalg.norm(polar))
            closeness.errors[spectrum] = round(1 - cosine, 5)
            closeness.largest[spectrum] = round(float(np.linalg.norm(update[0], 2)), 4)
    return found


def matrices(spectrum: str, rows: int, columns: int) -> tuple[jax.Array, np.ndarray]:
    left, singular, right = np.linalg.svd(np.random.default_rng(1).normal(size=(rows, columns)), full_matrices=False)
    index = np.arange(1, rows + 1)
    singular = {"flat": singular, "power": 1.0 / index, "exponential": np.exp(-5.0 * index / rows)}[spectrum]
    return jnp.asarray((left * singular) @ right, jnp.float32)[None], (left @ right)[None]


def on_eight_devices(layers: int, width: int, topology: str | None = None) -> dict[str, Any]:
    """What muon_mesh.py finds, in a process of its own that simulates them, or compiles for a topology's."""
    script = pathlib.Path(__file__).with_name("muon_mesh.py")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, str(script), str(layers), str(width), *([topology] if topology else [])]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_plans(folder: pathlib.Path) -> None:
    """`wallwm plan` with each of the three optimizers, at 8,192 tokens a chip."""
    for optimizer, name in PLANS.items():
        command = [sys.executable, "-m", "wallwm_jax.cli.main", "plan", "--config", "experiments/wan.py:5b"]
        command += ["--topology", "v5p:4x4x4", "--views", "4", "--set", "data.row_frames=32"]
        command += ["--set", f"stages.video.optimizer={optimizer}"]
        subprocess.run([*command, "--json", str(folder / name)], check=True)


def compare_plans(folder: pathlib.Path) -> dict[str, Any]:
    """What Muon adds to a step of AdamW, from three plans; raises InputError if they are of different runs."""
    plans = {optimizer: json.loads((folder / name).read_text()) for optimizer, name in PLANS.items()}
    for name in PLANNED:
        if any(plan[name] != plans["adamw"][name] for plan in plans.values()):
            found = {PLANS[optimizer]: plan[name] for optimizer, plan in plans.items()}
            raise InputError(f"--plans: {name}", found, "plans that differ in the optimizer alone")
    sent = {name: sum(sent["links"] for sent in plan["traffic"]["sent"].values()) for name, plan in plans.items()}
    seconds = {name: plan["seconds"] for name, plan in plans.items()}
    ours, base = seconds["muon"], seconds["adamw"]
    behind = sum(ours[name] - base[name] for name in ("compute", "memory", "network")) / base["overlapped"]
    bounds = {name: ours[name] / base[name] - 1 for name in ("overlapped", "serial")} | {"behind": behind}
    return {
        "traffic_ratio_vs_optax_v5p64": round((sent["muon"] - sent["adamw"]) / (sent["optax_muon"] - sent["adamw"]), 4),
        "overhead_vs_adamw_5b": round(bounds["overlapped"], 4),
        "overhead_bounds": {name: round(value, 4) for name, value in bounds.items()},
        "plans": {
            "files": [str(folder / name) for name in PLANS.values()],
            "frozen": plans["adamw"]["frozen"],
            "tokens_per_chip": plans["adamw"]["batch"]["tokens"] / plans["adamw"]["topology"]["chips"],
            "sent_gigabytes": {name: round(value / 1e9, 2) for name, value in sent.items()},
            "seconds": {n: {key: round(v, 4) for key, v in s.items() if key != "bound"} for n, s in seconds.items()},
        },
    }


if __name__ == "__main__":
    main()
