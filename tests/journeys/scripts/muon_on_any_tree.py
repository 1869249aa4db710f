"""Muon on a plain tree in two lines: matrices by their names and shapes, AdamW for the rest."""

import jax
import jax.numpy as jnp
import optax

from wallwm_jax.optim import muon


def loss(tree):
    values = jnp.linspace(-1, 1, 64)[:, None]
    return jnp.mean((jnp.tanh(values @ tree["up"] + tree["bias"]) @ tree["down"] - jnp.sin(3 * values)) ** 2)


parameters = {"up": jax.random.normal(jax.random.key(0), (1, 32)), "bias": jnp.zeros(32), "down": jnp.zeros((32, 1))}
optimizer = muon(1e-1)
state, first = optimizer.init(parameters), loss(parameters)
step = jax.jit(lambda at, state: optimizer.update(jax.grad(loss)(at), state, at))
for _ in range(30):
    updates, state = step(parameters, state)
    parameters = optax.apply_updates(parameters, updates)
assert loss(parameters) < 0.3 * first
