"""`stages.video.optimizer` names any Optax function, or a chain of four lines in the user's own file."""

import pathlib
import sys

import jax.numpy as jnp

from wallwm_jax.core.axes import declare
from wallwm_jax.optim.builder import build_optimizer
from wallwm_jax.train.families import stage_of
from wallwm_jax.train.settings import stage_settings

CHAIN = "import optax\ndef chain(rate, decay):\n    by_rate = optax.scale_by_learning_rate(rate)\n"
pathlib.Path("my_module.py").write_text(CHAIN + "    return optax.chain(optax.add_decayed_weights(decay), by_rate)\n")
sys.path.append(".")
for name, options in (("optax:lion", {"b1": 0.8}), ("my_module:chain", {"decay": 0.1})):
    settings = stage_settings(stage_of("video"), {"steps": 30, "optimizer": name, "optimizer_options": options})
    optimizer, tree = build_optimizer(settings.optimizer, {"w": declare("embed -> mlp")}), {"w": jnp.ones((2, 3))}
    updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
    assert jnp.abs(updates["w"]).min() > 0
