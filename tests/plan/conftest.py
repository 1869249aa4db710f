"""Small steps to plan."""

import importlib.util
import pathlib

import pytest

from wallwm_jax.core.config import load

ROOT = pathlib.Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed (extra `plan`)"
)


@pytest.fixture
def micro_config():
    """The Wan experiment at the smallest size: one layer without cross-view branch and keyframe reader, eight rows."""
    overrides = {"model.variant": "micro", "data.spatial_compression": 4, "data.rows": 8, "data.row_frames": 4}
    overrides |= {"data.max_latent_frames": 4, "data.segments": 2, "data.text_length": 8, "mesh": "host"}
    config = load(str(ROOT / "experiments/wan.py:5b"), [f"{name}={value!r}" for name, value in overrides.items()])
    config.unlock()
    config.model.cross_view = False
    config.model.overrides = {"layers": 1, "reader": (), "prediction": "velocity"}
    config.stages.video.objective.sight_cones = False
    return config.lock()
