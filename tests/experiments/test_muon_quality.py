"""What the comparison of Muon with AdamW makes of its runs."""

import argparse
import json
import pathlib

import pytest

from experiments.benchmarks.muon_quality import Trial, overrides, report, steps_to_reach
from wallwm_jax.core.config import load
from wallwm_jax.core.errors import InputError

CONFIG = str(pathlib.Path(__file__).parents[2] / "experiments/tabletop.py:demo")


def test_the_first_crossing_counts():
    """Between two points a straight line; a curve that starts below is there at once, one that stays above never; a
    later rise does not matter."""
    assert steps_to_reach([10, 20, 30], [4.0, 2.0, 3.0], 3.0) == 15
    assert steps_to_reach([10, 20], [1.0, 0.5], 2.0) == 10
    assert steps_to_reach([10, 20], [3.0, 2.0], 1.0) is None


def test_one_factor_scales_all_the_rates_that_an_optimizer_has():
    """Muon's two in the config's proportion, AdamW's one; the config accepts what is said."""
    config = load(CONFIG)
    before = config.stages.video
    for optimizer, factor in (("muon", 0.5), ("adamw", 1.0)):
        found = load(CONFIG, overrides(Trial(optimizer, 0.5, 2), config)).stages.video
        assert found.learning_rate == factor * before.learning_rate
        assert found.adamw_learning_rate == 0.5 * before.adamw_learning_rate
        assert found.optimizer == optimizer


def test_the_report_is_of_the_best_rates(tmp_path):
    """The rate that ends lowest with seed 0, one that diverges left out; seeds that both optimizers have; a ratio of
    mean curves and one a seed; a picture. Runs of another config are refused."""
    curves = {
        ("adamw", 1.0, 0): [4.0, 3.0, 2.0],
        ("adamw", 2.0, 0): [],
        ("adamw", 1.0, 1): [4.0, 3.5, 2.5],
        ("muon", 1.0, 0): [3.0, 1.0, 0.5],
        ("muon", 2.0, 0): [3.0, 2.5, 2.4],
        ("muon", 1.0, 1): [3.0, 2.0, 1.5],
    }
    for key, losses in curves.items():
        trial, pairs = Trial(*key), [(10 * (place + 1), loss) for place, loss in enumerate(losses)]
        found = {**trial._asdict(), "config": CONFIG, "set": [], "overrides": [], "curve": pairs}
        (tmp_path / f"{trial.name}.json").write_text(json.dumps(found))
    options = argparse.Namespace(workdir=tmp_path, config=CONFIG, set=[], seeds=3, factors=[1.0, 2.0])
    found = report(options)
    # Means as well as single seeds: AdamW ends half-way between Muon's first and second of three points.
    assert found["steps_ratio"] == 0.5 and found["steps_ratio_of_seeds"] == [0.5, 0.5]
    assert found["best_factor"] == {"muon": 1.0, "adamw": 1.0} and found["seeds"] == [0, 1] and found["runs"] == 6
    assert found["heldout_loss"] == {"muon": 1.0, "adamw": 2.25}
    assert (tmp_path / "muon_quality.png").stat().st_size > 1000
    with pytest.raises(InputError, match="--config"):
        report(argparse.Namespace(**vars(options) | {"config": "other.py"}))
