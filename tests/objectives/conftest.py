"""The programs here are tiny and compiling them is all the cost: the CPU backend's optimiser is switched off."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
