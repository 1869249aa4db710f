"""wallwm_jax: world action models on semantic events, in JAX."""

__version__ = "0.1.0"
