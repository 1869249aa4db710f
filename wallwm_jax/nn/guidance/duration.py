"""The duration head: how many control steps an event will take, so that event mode knows how long to dream."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from wallwm_jax.nn.attention import Heads, attend, attention_mask
from wallwm_jax.nn.guidance.places import resized
from wallwm_jax.nn.layers import FeedForward, Linear, RMSNorm
from wallwm_jax.nn.parameters import Initializer, normal, parameter, zeros

_TYPICAL_STEPS = 20.0
"""What an untrained head answers."""


class DurationHead(nn.Module):
    """A learned query reads the caption, the keyframe's patches (own embedding, all views) and the state.

    Attributes:
      sizes: must give embed (own width), heads, head_dim, mlp, patch (inputs a patch), text_embed, dof, view, position
        (the learned places of a view's patches), output (1).
      grid: patch rows and columns of these places; other grids are given places in between.
    """

    sizes: Mapping[str, int]
    grid: tuple[int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        keyframes: Float[Array, "B S V n values"],
        view_mask: Bool[Array, "B S V"],
        text: Float[Array, "B S L text_embed"],
        text_mask: Bool[Array, "B S L"],
        state: Float[Array, "B S 26"],
        dof_mask: Bool[Array, "B S 26"],
        grid: tuple[int, int],
    ) -> Float[Array, "B S"]:
        """Natural logarithm of the number of control steps; fp32. `grid` are the keyframes' patch rows and columns."""
        sizes, dtype = self.sizes, self.dtype
        rows, segments, views, patches, _ = keyframes.shape
        place = parameter(self, "place", "[view position] embed", sizes, normal(0.02))
        place = resized(place[:views], self.grid, grid)
        patch_tokens = Linear("patch -> embed @adamw", sizes, dtype=dtype, name="keyframe")(keyframes) + place
        text_tokens = Linear("text_embed -> embed", sizes, dtype=dtype, name="text")(text)
        known = jnp.concatenate([jnp.where(dof_mask, state, 0.0), dof_mask.astype(state.dtype)], -1)
        state_sizes = {**sizes, "dof": 2 * sizes["dof"]}
        state_token = Linear("dof -> embed @adamw", state_sizes, dtype=dtype, name="state")(known)[:, :, None]

        width = patch_tokens.shape[-1]
        patch_tokens = patch_tokens.reshape(rows, segments, views * patches, width)
        tokens = jnp.concatenate([state_token, text_tokens, patch_tokens], 2).reshape(rows * segments, -1, width)
        real = [jnp.ones((rows, segments, 1), bool), text_mask, jnp.repeat(view_mask, patches, axis=2)]
        mask = attention_mask(jnp.concatenate(real, 2).reshape(rows * segments, 1, -1))

        tokens = RMSNorm("embed", sizes, name="norm")(tokens)
        # The state joins the query: which patches matter depends on where the arm is.
        query = parameter(self, "query", "embed", sizes, normal(1.0)) + state_token.reshape(rows * segments, 1, width)
        heads = Heads("embed", sizes, norm=True, dtype=dtype, name="read")(query)
        key = Heads("embed", sizes, norm=True, dtype=dtype, name="key")(tokens)
        value = Heads("embed", sizes, dtype=dtype, name="value")(tokens)
        mixed = attend(heads, key, value, mask)
        x = query + Linear("heads head_dim -> embed", sizes, dtype=dtype, name="mix")(mixed)
        x = x + FeedForward("embed", sizes, dtype, name="mlp")(RMSNorm("embed", sizes, name="mlp_norm")(x))
        x = RMSNorm("embed", sizes, name="output_norm")(x)
        start = Initializer(math.log(_TYPICAL_STEPS))
        return Linear("embed -> output @adamw", sizes, zeros, start, name="output")(x).reshape(rows, segments)
