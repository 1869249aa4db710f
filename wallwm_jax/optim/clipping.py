"""Clipping by the global norm, for gradients of any size that is a number at all."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all numbers of a tree together, fp32.

    That of Optax where no square overflows. Gradients beyond that, of 1e20 say, are divided by the largest of them
    first: an infinite norm would turn them into an update of exactly zero. Of NaN or infinity the norm is no finite
    number either.
    """
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    if not leaves:
        return jnp.zeros(())
    norm = optax.tree.norm(leaves)

    def divided() -> Float[Array, ""]:
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]))
        return largest * optax.tree.norm([leaf / largest for leaf in leaves])

    return jax.lax.cond(jnp.isfinite(norm), lambda: norm, divided)


def clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` with `global_norm`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm = global_norm(updates)

        def clipped(leaf: Array) -> Array:
            return jnp.where(norm < most, leaf, leaf / norm.astype(leaf.dtype) * most)

        return jax.tree.map(clipped, updates), state

    return optax.GradientTransformation(lambda parameters: optax.EmptyState(), update)
