"""Text encoder of T5 structure (as UMT5): RMS norms, relative position bias in every layer, gated GELU."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.nn.activations import lay_out
from wallwm_jax.nn.attention import AttentionMask, Heads, attend, attention_mask
from wallwm_jax.nn.layers import GatedFeedForward, Linear, RMSNorm
from wallwm_jax.nn.parameters import normal, parameter

_FARTHEST = 128


def relative_buckets(length: int, buckets: int) -> Int[Array, "L L"]:
    """T5's bucket of key minus query: half for each sign, exact near zero, logarithmic up to 128."""
    offset = jnp.arange(length)[None, :] - jnp.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = jnp.abs(offset)
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(_FARTHEST / exact)
    far = exact + (ratio * (half - exact)).astype(jnp.int32)
    return jnp.where(offset > 0, half, 0) + jnp.where(distance < exact, distance, jnp.minimum(far, half - 1))


class TextBlock(nn.Module):
    """One layer. Scores are scaled by 1 / sqrt(head_dim); T5 leaves the factor in its query weights."""

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "N L text_embed"], mask: AttentionMask, buckets: Int[Array, "L L"]
    ) -> tuple[Float[Array, "N L text_embed"], None]:
        sizes, dtype, x = self.sizes, self.dtype, lay_out(x, "captions letters text_embed")
        table = parameter(self, "relative_bias", "[relative] heads", sizes, normal(0.1))
        inner = RMSNorm("text_embed", sizes, name="attention_norm")(x)
        query, key, value = (
            Heads("text_embed", sizes, bias=None, dtype=dtype, name=name)(inner) for name in ("query", "key", "value")
        )
        mixed = attend(query, key, value, mask, jnp.moveaxis(table[buckets], -1, 0)[None])
        x = x + Linear("heads head_dim -> text_embed", sizes, bias=None, dtype=dtype, name="output")(mixed)
        inner = RMSNorm("text_embed", sizes, name="mlp_norm")(x)
        x = x + GatedFeedForward("text_embed", sizes, "gelu", dtype, name="mlp")(inner)
        return lay_out(x, "captions letters text_embed"), None


class TextEncoder(nn.Module):
    """Token ids to features; padded tokens come out as exact zeros.

    Attributes:
      layers: depth.
      sizes: must give text_embed, heads, head_dim, mlp, vocabulary, relative.
    """

    layers: int
    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Int[Array, "B S L"], text_mask: Bool[Array, "B S L"]) -> Float[Array, "B S L text_embed"]:
        rows, segments, length = text.shape
        table = parameter(self, "embedding", "[vocabulary] text_embed", self.sizes, normal(1.0))
        real = text_mask.reshape(-1, length)
        # Ids in the padding may be anything; they must not read outside the table.
        tokens = jnp.where(real, text.reshape(-1, length), 0)
        x = table[tokens].astype(self.dtype)
        mask = attention_mask(jnp.broadcast_to(real[:, None, :], (len(real), length, length)))
        stack = nn.scan(
            TextBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(self.sizes, self.dtype, name="layers")(x, mask, relative_buckets(length, self.sizes["relative"]))
        x = RMSNorm("text_embed", self.sizes, name="norm")(x)
        return jnp.where(text_mask[..., None], x.reshape(rows, segments, length, -1), 0.0)
