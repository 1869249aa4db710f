"""Optimizers; `muon` is the one for any parameter tree."""

from wallwm_jax.optim.muon import MuonSettings
from wallwm_jax.optim.optimizer import muon, muon_table

__all__ = ["MuonSettings", "muon", "muon_table"]
