"""Parameters as safetensors, for whoever reads them without this library."""

import json
import os
import pathlib

import numpy as np
from safetensors.numpy import save_file

from wallwm_jax.core.trees import named_leaves
from wallwm_jax.train.checkpoint import Checkpoint


def export_parameters(checkpoint: Checkpoint, path: pathlib.Path, *, averaged: bool) -> int:
    """Writes the raw or the averaged parameters by their slash-separated names; returns how many arrays there are.

    The metadata hold the step and whether the parameters are averaged, and as JSON the model's architecture, the
    normalisation statistics and the embodiment.
    """
    tree = checkpoint.averaged if averaged else checkpoint.parameters
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(tree).items()}
    described = {name: json.dumps(getattr(checkpoint.records, name)) for name in ("model", "statistics", "embodiment")}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.touch()
    mode = temporary.stat().st_mode  # what this process gives its files; safetensors lets nobody else read
    save_file(arrays, temporary, {"step": str(checkpoint.step), "averaged": json.dumps(averaged), **described})
    temporary.chmod(mode)
    os.replace(temporary, path)
    return len(arrays)
