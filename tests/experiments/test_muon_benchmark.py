"""What the benchmark of Muon says of machines that are not here."""

import json
import pathlib

import pytest

from experiments.benchmarks import muon_trees
from experiments.benchmarks.muon import PLANS, compare_plans, on_eight_devices
from tests.plan.conftest import needs_libtpu
from wallwm_jax.core.errors import InputError

RESULTS = pathlib.Path(__file__).parents[2] / "experiments/benchmarks/results"


@pytest.mark.parametrize(
    ("layers", "topology"), [(2, None), (8, None), pytest.param(8, "v5p:2x2x2", marks=needs_libtpu)]
)
def test_owners_iterations_are_found_in_the_compiled_program(layers, topology):
    """Of eight devices, with matrices that some own more of than others, and with equally many for all, on CPUs and on
    TPUs: no collective inside the iterations, and what the program does is what the analytic counter says of it."""
    found = on_eight_devices(layers, 128, topology)
    assert found["iteration_collectives"] == 0
    assert 1 <= found["ns_flops_fraction_8dev"] <= (2 if layers == 2 else 1.001)
    analytic = found["ns_flops_8dev"]
    assert analytic["counter_vs_compiled"] == pytest.approx(1, abs=0.01)
    assert analytic["products_vs_cost_analysis"] == pytest.approx(1, abs=0.1)
    assert found["ns_flops_fraction_8dev"] == pytest.approx(analytic["analytic_fraction"], rel=0.01)


def test_the_line_that_is_kept_follows_from_the_plans_that_are_kept():
    kept, found = json.loads((RESULTS / "muon.json").read_text()), compare_plans(RESULTS)
    for name in ("traffic_ratio_vs_optax_v5p64", "overhead_vs_adamw_5b", "overhead_bounds"):
        assert kept[name] == found[name], name


def test_plans_of_different_steps_are_not_compared(tmp_path):
    for name in PLANS.values():
        (tmp_path / name).write_text((RESULTS / name).read_text())
    other = json.loads((tmp_path / PLANS["muon"]).read_text())
    other["batch"]["rows"] += 1
    (tmp_path / PLANS["muon"]).write_text(json.dumps(other))
    with pytest.raises(InputError, match="plans: batch"):
        compare_plans(tmp_path)


def test_small_trees_are_compared_with_optax_and_our_other_settings():
    """On a tree whose default is the direct iteration and on one whose default is none of the settings: the line says
    so, and every ratio is that of times which it has."""
    for shape, alike in (((2, 8, 8), ["direct"]), ((128, 256), ["gram by halves"])):
        axes = (len(shape) - 2, len(shape) - 1)
        found = muon_trees.compare(*muon_trees.single(shape, *axes), rounds=1)
        assert found["default_is"] == alike
        assert found["best"] in muon_trees.OTHERS and found["best"] not in alike
        times = found["milliseconds"]
        assert times.keys() == {"default", "optax", *muon_trees.OTHERS} and min(times.values()) > 0
        assert found["vs_optax"] == pytest.approx(times["default"] / times["optax"], rel=0.1, abs=0.01)
        assert found["vs_best"] >= 1.0
