"""Test programs are tiny and compiling them is nearly all the cost: the CPU backend's optimiser is off, and what one
test compiled the others find in a cache that all worker processes of a run share. Every call of the package is checked
against its annotations, shapes included. No example of hypothesis has a deadline: a busy machine is no fault."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import hypothesis
import pytest
from jaxtyping import install_import_hook

install_import_hook("wallwm_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("wallwm", deadline=None)
hypothesis.settings.load_profile("wallwm")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory, worker_id):
    """A folder that lives as long as the test run."""
    import jax

    base = tmp_path_factory.getbasetemp()
    folder = base / "compiled" if worker_id == "master" else base.parent / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
