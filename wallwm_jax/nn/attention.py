"""Multi-head attention on `[*batch, tokens, heads, head_dim]`, with masks that leave exact zeros."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from wallwm_jax.nn.activations import exchange
from wallwm_jax.nn.layers import Linear, RMSNorm
from wallwm_jax.nn.parameters import Initializer, zeros
from wallwm_jax.nn.positions import Rotation, rotate

_BLOCKED = -1e30


class AttentionMask(NamedTuple):
    """Who may attend to whom, computed once and shared by all layers."""

    bias: Float[Array, "*b 1 q k"]
    """0 where allowed, a huge negative number elsewhere; fp32."""
    rows: Bool[Array, "*b q 1 1"]
    """Whether a query has any key; the others get exactly zero."""


def attention_mask(allowed: Bool[Array, "*b q k"]) -> AttentionMask:
    """The mask that lets query q see key k where `allowed`."""
    bias = jnp.where(allowed, 0.0, _BLOCKED).astype(jnp.float32)
    return AttentionMask(bias[..., None, :, :], jnp.any(allowed, -1)[..., None, None])


def attend(
    query: Float[Array, "*b q heads head_dim"],
    key: Float[Array, "*b k heads head_dim"],
    value: Float[Array, "*b k heads head_dim"],
    mask: AttentionMask | None = None,
    bias: Float[Array, "*#b heads q k"] | None = None,
) -> Float[Array, "*b q heads head_dim"]:
    """softmax(q k / sqrt(head_dim) + bias) v; the softmax is fp32. A query without any key returns exactly zero, and a
    masked key has exactly zero weight and gradient. A mask may be shared along batch axes, where it has size 1."""
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + mask.bias
    weights = jax.nn.softmax(scores, -1).astype(value.dtype)
    mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
    return mixed if mask is None else jnp.where(mask.rows, mixed, jnp.zeros_like(mixed))


class Heads(nn.Module):
    """A projection of `[..., width]` into heads, with Wan's RMS norm over all heads if `norm`."""

    axis: str
    sizes: Mapping[str, int]
    norm: bool = False
    bias: Initializer | None = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch heads head_dim"]:
        declaration = f"{self.axis} -> heads head_dim"
        heads = Linear(declaration, self.sizes, bias=self.bias, dtype=self.dtype, name="projection")(x)
        if self.norm:
            heads = RMSNorm("[heads] head_dim", self.sizes, name="norm")(heads).astype(self.dtype)
        return heads


class SelfAttention(nn.Module):
    """Multi-head self-attention with QK RMS norm and rotary positions, over tokens `[*batch, q, width]`.

    Attributes:
      axis: the width's name.
      sizes: must give `axis`, heads and head_dim.
      batch: the names of the batch axes (`nn.activations`). If none of them has it, the mesh's `sequence` splits tokens
        outside and heads inside of attention: two all-to-alls between devices.
      identity: the output projection starts as zeros, for a branch that starts as the identity.
    """

    axis: str
    sizes: Mapping[str, int]
    batch: str
    identity: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch q width"], turn: Rotation, mask: AttentionMask
    ) -> Float[Array, "*batch q width"]:
        query = Heads(self.axis, self.sizes, norm=True, dtype=self.dtype, name="query")(x)
        key = Heads(self.axis, self.sizes, norm=True, dtype=self.dtype, name="key")(x)
        value = Heads(self.axis, self.sizes, dtype=self.dtype, name="value")(x)
        outside, inside = (f"{self.batch} {tokens} heads head_dim" for tokens in ("tokens", "attended"))
        parts = rotate(query, turn), rotate(key, turn), value
        mixed = exchange(attend(*(exchange(part, outside, inside) for part in parts), mask), inside, outside)
        declaration, init = f"heads head_dim -> {self.axis}", zeros if self.identity else None
        return Linear(declaration, self.sizes, init, dtype=self.dtype, name="output")(mixed)
