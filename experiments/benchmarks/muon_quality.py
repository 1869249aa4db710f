"""The steps that Muon needs to get where AdamW gets in all of its own: stage 1 of the demo with either, three seeds.

    python experiments/benchmarks/muon_quality.py --workdir runs/muon_quality    # trains; a second call goes on
    python experiments/benchmarks/muon_quality.py --workdir runs/muon_quality --report

10 trainings of the library's own stage 1, each of some 13 minutes on one core of a Xeon at 2.5 GHz: either optimizer at
three rates with seed 0, then with seeds 1 and 2 at the rate whose held-out loss was least at the end. A rate is a
factor of the grid times the config's: of AdamW the one it has (`adamw_learning_rate`), of Muon both (the matrices'
`learning_rate`, and AdamW's for the rest, in the config's proportion). All else is equal: schedule, warm-up, decay,
clipping, batches.

`steps_ratio` is the step at which Muon's held-out loss, mean over the seeds, is first down at AdamW's last, over
AdamW's steps; null if it never is. Both schedules fall to zero at the last step, so that Muon gets there with a rate
that has not fallen yet, which makes its case harder. `best_at_edge` says whether a better rate may lie outside the
grid: `--factors` widens it, and what has been trained counts.

The report draws loss against step into the workdir. Its last line is one JSON object.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from wallwm_jax.core.config import load
from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.files import write_durably
from wallwm_jax.data.curation.curate import CurationSettings, curate
from wallwm_jax.train.loop import train_stage
from wallwm_jax.train.metrics import read_metrics
from wallwm_jax.train.stop import StopSignals

STAGE = "video"
RATES = {"muon": ("learning_rate", "adamw_learning_rate"), "adamw": ("adamw_learning_rate",)}
"""What a factor of the grid multiplies."""


class Trial(NamedTuple):
    """One training."""

    optimizer: str
    factor: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.optimizer}-{self.factor:g}-{self.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="keeps all runs, and a JSON of each")
    parser.add_argument("--config", default="experiments/tabletop.py:demo")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="the grid")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every run's config")
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    options.set = [f"stages.{STAGE}.eval_every=20", *options.set]
    try:
        if not options.report:
            train_all(options)
        print(json.dumps(report(options)))
    except (InputError, RunError) as error:
        sys.exit(f"muon_quality: {error}")


def train_all(options: argparse.Namespace) -> None:
    """Whatever of the trials has not been trained yet."""
    config, curated = load(options.config, options.set), options.workdir / "curated"
    if not curated.exists():
        curate(config.dataset.root, curated, config.dataset.embodiment, CurationSettings.from_config(config))
    for optimizer in RATES:
        for factor in options.factors:
            train(Trial(optimizer, factor, 0), options)
        best = best_factor(finished(options), optimizer)
        for seed in range(1, options.seeds):
            train(Trial(optimizer, best, seed), options)


def overrides(trial: Trial, config: ml_collections.ConfigDict) -> list[str]:
    """What distinguishes a trial's config from the others'."""
    section = config.stages[STAGE]
    rates = {f"stages.{STAGE}.{rate}": trial.factor * section[rate] for rate in RATES[trial.optimizer]}
    chosen = {"seed": trial.seed, f"stages.{STAGE}.optimizer": trial.optimizer, **rates}
    return [f"{key}={value}" for key, value in chosen.items()]


def train(trial: Trial, options: argparse.Namespace) -> None:
    """Trains a trial, or goes on with it, unless its JSON is there: (step, held-out loss) pairs. One that diverges has
    none. Leaves the program where a signal stops it."""
    path = options.workdir / f"{trial.name}.json"
    if path.is_file():
        return
    given = overrides(trial, load(options.config, options.set))
    config = load(options.config, [*options.set, *given])
    print(f"{trial.name}: {' '.join(given)}", flush=True)
    curve: list[tuple[int, float]] = []
    try:
        with StopSignals() as stop:
            result = train_stage(config, STAGE, options.workdir / "curated", options.workdir / trial.name, stop=stop)
        if int(result.state.step) < config.stages[STAGE].steps:
            sys.exit(f"stopped at step {int(result.state.step)} of {trial.name}; the same command goes on")
        lines = read_metrics(result.directory / "metrics.jsonl")
        curve = [(line["step"], line["heldout_loss"]) for line in lines if "heldout_loss" in line]
    except RunError as error:
        print(f"{trial.name} diverged: {error}", flush=True)
    found = {**trial._asdict(), "config": options.config, "set": options.set, "overrides": given, "curve": curve}
    write_durably(path, json.dumps(found))


def finished(options: argparse.Namespace) -> dict[Trial, list[tuple[int, float]]]:
    """The held-out losses of every trial that has been trained.

    Raises InputError for one that was trained with another config than is asked for now.
    """
    curves = {}
    for path in sorted(options.workdir.glob("*-*-*.json")):
        found = json.loads(path.read_text())
        trial = Trial(*(found[name] for name in Trial._fields))
        for name in ("config", "set"):
            if found[name] != getattr(options, name):
                raise InputError(f"--{name}", getattr(options, name), f"{found[name]}, with which {path} was trained")
        curves[trial] = [tuple(pair) for pair in found["curve"]]
    return curves


def last_loss(curve: Sequence[tuple[int, float]]) -> float:
    """Infinite of a run that diverged."""
    return curve[-1][1] if curve and curve[-1][1] is not None else float("inf")


def best_factor(curves: dict[Trial, Any], optimizer: str) -> float:
    """That whose held-out loss ends lowest with seed 0."""
    swept = [trial for trial in curves if trial.optimizer == optimizer and trial.seed == 0]
    if not swept:
        raise InputError("--workdir", f"no finished run of {optimizer}", "at least one (without --report)")
    return min(swept, key=lambda trial: last_loss(curves[trial])).factor


def swept_losses(curves: dict[Trial, list[tuple[int, float]]], optimizer: str) -> dict[float, float | None]:
    """The last held-out loss by factor, of seed 0; None of a run that diverged."""
    swept = [trial for trial in curves if trial.optimizer == optimizer and trial.seed == 0]
    return {trial.factor: curves[trial][-1][1] if curves[trial] else None for trial in swept}


def steps_to_reach(steps: Sequence[int], losses: Sequence[float], target: float) -> float | None:
    """The first step at which a curve, straight between its points, is down at `target`; None if it never is."""
    below = [place for place, loss in enumerate(losses) if loss <= target]
    if not below:
        return None
    place = below[0]
    if place == 0:
        return float(steps[0])
    share = (losses[place - 1] - target) / (losses[place - 1] - losses[place])
    return steps[place - 1] + share * (steps[place] - steps[place - 1])


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Draws the best rates' curves into the workdir, and says what they come to."""
    curves = finished(options)
    best = {optimizer: best_factor(curves, optimizer) for optimizer in RATES}
    seeds = [seed for seed in range(options.seeds) if all(Trial(*pair, seed) in curves for pair in best.items())]
    chosen = {name: [curves[Trial(name, best[name], seed)] for seed in seeds] for name in RATES}
    if not all(curve for part in chosen.values() for curve in part):
        raise InputError("--factors", options.factors, "rates with which neither optimizer diverges")
    steps = [step for step, _ in chosen["adamw"][0]]
    losses = {name: np.array([[loss for _, loss in curve] for curve in part]) for name, part in chosen.items()}
    swept = {name: swept_losses(curves, name) for name in RATES}
    reached = steps_to_reach(steps, losses["muon"].mean(0), losses["adamw"][:, -1].mean())
    alone = [steps_to_reach(steps, *pair) for pair in zip(losses["muon"], losses["adamw"][:, -1], strict=True)]
    draw(steps, losses, options.workdir / "muon_quality.png")
    return {
        "steps_ratio": _share(reached, steps[-1]),
        "steps_ratio_of_seeds": [_share(step, steps[-1]) for step in alone],
        "heldout_loss": {name: round(statistics.mean(part[:, -1]), 5) for name, part in losses.items()},
        "heldout_loss_of_seeds": {name: [round(loss, 5) for loss in part[:, -1]] for name, part in losses.items()},
        "best_factor": best,
        "best_at_edge": {name: best[name] in (min(swept[name]), max(swept[name])) for name in RATES},
        "sweep": {name: dict(sorted(part.items())) for name, part in swept.items()},
        "steps": steps[-1],
        "seeds": seeds,
        "runs": len(curves),
        "config": options.config,
        "set": options.set,
    }


def _share(step: float | None, steps: int) -> float | None:
    return None if step is None else round(step / steps, 3)


def draw(steps: Sequence[int], losses: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Held-out loss against step: means and ranges over the seeds, and the level that AdamW ends at."""
    import matplotlib
    from matplotlib.figure import Figure

    from wallwm_jax.evaluate.figures import DPI, HOLD, MEAN, OURS, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, label, colour in (("muon", "Muon", OURS), ("adamw", "AdamW", MEAN)):
            axes.fill_between(steps, losses[name].min(0), losses[name].max(0), color=colour, alpha=0.2, lw=0)
            axes.plot(steps, losses[name].mean(0), color=colour, lw=1.6, label=f"{label}, {len(losses[name])} seeds")
        axes.axhline(losses["adamw"][:, -1].mean(), color=HOLD, lw=0.8, ls="--")
        axes.set(xlabel="step", ylabel="held-out video loss", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend()
        figure.savefig(path, dpi=DPI, facecolor="white")


if __name__ == "__main__":
    main()
