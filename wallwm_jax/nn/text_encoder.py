"""Text encoder of T5 structure (as UMT5): RMS norms, relative position bias in every layer, gated GELU."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.activations import lay_out
from wallwm_jax.nn.attention import AttentionMask, Heads, attend, attention_mask
from wallwm_jax.nn.layers import GatedFeedForward, Linear, RMSNorm
from wallwm_jax.nn.parameters import normal, parameter

_FARTHEST = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderSizes:
    """Sizes of a text encoder. UMT5-XXL: 24 layers, 4096, 64 heads, 10240, 256384 tokens.

    Attributes:
      layers: depth.
      embed: width of the residual stream and of the features, a multiple of `heads`.
      heads: attention heads.
      mlp: hidden width of the feed-forward network.
      vocabulary: token ids are below this.
      buckets: T5's buckets of relative distance, half of them for each sign.

    Raises:
      InputError: a width that the heads do not divide.
    """

    layers: int
    embed: int
    heads: int
    mlp: int
    vocabulary: int
    buckets: int = 32

    def __post_init__(self):
        if self.embed % self.heads:
            raise InputError("embed", self.embed, f"a multiple of {self.heads} heads")

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes that parameters declare."""
        axes = {"text_embed": self.embed, "heads": self.heads, "head_dim": self.embed // self.heads, "mlp": self.mlp}
        return axes | {"vocabulary": self.vocabulary, "relative": self.buckets}


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

    sizes: TextEncoderSizes
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "N L text_embed"], mask: AttentionMask, buckets: Int[Array, "L L"]
    ) -> tuple[Float[Array, "N L text_embed"], None]:
        sizes, dtype, x = self.sizes.axes, self.dtype, lay_out(x, "captions letters text_embed")
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

    Two captions of up to three tokens:

        encoder = TextEncoder(sizes=TextEncoderSizes(layers=2, embed=64, heads=4, mlp=128, vocabulary=259))
        text, mask = jnp.array([[5, 6, 1], [7, 1, 0]]), jnp.array([[1, 1, 1], [1, 1, 0]], bool)
        variables = unbox(encoder.init(jax.random.key(0), text, mask))
        features = encoder.apply(variables, text, mask)  # [2, 3, 64]
    """

    sizes: TextEncoderSizes
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, text: Int[Array, "*batch L"], text_mask: Bool[Array, "*batch L"]
    ) -> Float[Array, "*batch L text_embed"]:
        """Features, fp32.

        Args:
            text: token ids; anything where the mask is False.
            text_mask: True on real tokens.
        """
        axes, length = self.sizes.axes, text.shape[-1]
        table = parameter(self, "embedding", "[vocabulary] text_embed", axes, normal(1.0))
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
            length=self.sizes.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(self.sizes, self.dtype, name="layers")(x, mask, relative_buckets(length, self.sizes.buckets))
        x = RMSNorm("text_embed", axes, name="norm")(x)
        return jnp.where(text_mask[..., None], x.reshape(*text.shape, -1), 0.0)
