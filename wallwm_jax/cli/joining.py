"""A run of several processes: each says what it is about to run, and joins the others if all say the same."""

import hashlib

import jax

from wallwm_jax.core.config import load, to_json
from wallwm_jax.core.processes import ProcessGroup, code_digest, join


def join_run(
    specification: str, overrides: list[str], coordinator: str, count: int, index: int, patience: float
) -> None:
    """Must come before anything asks for devices.

    Raises:
        InputError: options that cannot be, or a config that cannot be read.
        RunError: processes that do not come, or whose config, code, seed or JAX is another.
    """
    group, config = ProcessGroup(coordinator, count, index, patience), load(specification, overrides)
    fingerprint = {
        "config": hashlib.sha256(to_json(config).encode()).hexdigest()[:16],
        "code": code_digest()[:16],
        "seed": str(config.seed),
        "jax": jax.__version__,
    }
    join(group, fingerprint)
