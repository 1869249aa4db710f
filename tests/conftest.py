"""Test programs are tiny and compiling them is nearly all the cost: the CPU backend's optimiser is off, and what one
test compiled the others find in a cache that all worker processes of a run share. Every call of the package is checked
against its annotations, shapes included. Hypothesis draws the same examples in every run, without a deadline: a busy
machine is no fault."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import hypothesis
import pytest
from jaxtyping import install_import_hook

install_import_hook("wallwm_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("wallwm", deadline=None, derandomize=True)
hypothesis.settings.load_profile("wallwm")


LONGEST = (
    "cli/test_pipeline.py",
    "journeys/test_journeys.py",
    "cli/test_joining.py",
    "train/test_processes.py",
    "train/test_mesh_tables.py",
    "train/test_faults.py",
    "train/test_fit.py",
    "train/test_sharded.py",
    "train/test_step.py",
    "train/test_accumulation.py",
)


def pytest_collection_modifyitems(items):
    """The files that take minutes come first, so that no worker is left alone with one at the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory, worker_id):
    """A folder that lives as long as the test run."""
    import jax

    base = tmp_path_factory.getbasetemp()
    folder = base / "compiled" if worker_id == "master" else base.parent / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
