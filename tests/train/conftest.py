"""The programs here are tiny and compiling them is all the cost: the CPU backend's optimiser is switched off, and what
one test compiled the next one finds in a cache."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import pytest

from tests.train.synthetic import random_batch
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Programs compiled once a test run."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def model():
    """The smallest real model."""
    return WorldAction(variant("micro"), views=2)


@pytest.fixture(scope="session")
def initial(model):
    """(parameters, declarations); tests must not donate these parameters."""
    return init_parameters(model, jax.random.key(0), random_batch(0))
