"""Causal transformer blocks of Qwen's structure: RMS norms, grouped-query attention, multimodal RoPE, SwiGLU. As they
stand, they are Qwen3's (QK norm, no biases); `LanguageSizes` has the options that other backbones need. The
vision-language trunk, the small language model and the Staircase branch are stacks of them.

One code path serves training, prefill and decoding: a block writes the keys and values of its tokens into `stored` at
`start` and attends to all of it under a mask.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.attention import AttentionMask, attend, attention_mask
from wallwm_jax.nn.layers import EPSILON, GatedFeedForward, Linear, RMSNorm
from wallwm_jax.nn.parameters import zeros
from wallwm_jax.nn.positions import Rotation, rotate, rotation


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageSizes:
    """Sizes and options of a stack of `LanguageBlock`s. The defaults are Qwen3's; Qwen2.5 is `qkv_bias=True,
    qk_norm=False`.

    Attributes:
      layers: depth.
      embed: width of the residual stream.
      heads, key_heads: query heads, and heads of keys and values; `key_heads` divides `heads`.
      mlp: hidden width of the feed-forward network.
      head_dim: width of a head, even; None: embed / heads.
      sections: rotation pairs turned by time, row and column, a sum of head_dim / 2; None: all by time (plain RoPE).
      rope_base: slowest rotation's wavelength over 2 pi, in tokens.
      qkv_bias: whether the query, key and value projections have a bias.
      qk_norm: whether queries and keys are RMS-normed in every head before they are rotated.
      epsilon: added to the mean square by every RMS norm.

    Raises:
      InputError: sizes that do not divide as they must.
    """

    layers: int
    embed: int
    heads: int
    key_heads: int
    mlp: int
    head_dim: int | None = None
    sections: tuple[int, int, int] | None = None
    rope_base: float = 1e6
    qkv_bias: bool = False
    qk_norm: bool = True
    epsilon: float = EPSILON

    def __post_init__(self):
        if self.head_dim is None:
            if self.embed % self.heads:
                raise InputError("embed", self.embed, f"a multiple of {self.heads} heads, or a head_dim")
            object.__setattr__(self, "head_dim", self.embed // self.heads)
        if self.heads % self.key_heads:
            raise InputError("key_heads", self.key_heads, f"a divisor of {self.heads} heads")
        if self.head_dim % 2:
            raise InputError("head_dim", self.head_dim, "an even number")
        object.__setattr__(self, "sections", tuple(self.sections or (self.head_dim // 2, 0, 0)))
        if len(self.sections) != 3 or sum(self.sections) != self.head_dim // 2:
            raise InputError("sections", self.sections, f"three numbers with a sum of {self.head_dim // 2}")

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes that parameters declare."""
        axes = {"language_embed": self.embed, "heads": self.heads, "key_heads": self.key_heads}
        return axes | {"head_dim": self.head_dim, "mlp": self.mlp}


class KeyValues(NamedTuple):
    """Keys (normed and rotated) and values of M slots, with a leading axis of layers for a stack."""

    keys: Float[Array, "*layers B M key_heads head_dim"]
    values: Float[Array, "*layers B M key_heads head_dim"]


class BlockContext(NamedTuple):
    """What every block of a stack reads besides its own keys and values."""

    rotation: Rotation
    """`[B, N, 1, pairs]`."""
    mask: AttentionMask
    """N queries over M slots."""
    start: Int[Array, ""]
    """The slot of the first of the N tokens."""


def empty_key_values(sizes: LanguageSizes, batch: int, slots: int, dtype: Any = jnp.float32) -> KeyValues:
    """Storage for a stack, all zeros."""
    shape = (sizes.layers, batch, slots, sizes.key_heads, sizes.head_dim)
    return KeyValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def multimodal_rotation(positions: Int[Array, "B N 3"], sections: Sequence[int], base: float) -> Rotation:
    """Qwen's multimodal RoPE: one bank of frequencies in three sections, turned by time, row and column.

    Text has three equal positions, for which this is plain RoPE. `sections` are numbers of rotation pairs.
    """
    pairs = sum(sections)
    frequencies = base ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
    axis = jnp.repeat(jnp.arange(3), jnp.array(sections), total_repeat_length=pairs)
    return rotation(positions.astype(jnp.float32)[..., axis] * frequencies)


def causal_context(
    positions: Int[Array, "B N 3"],
    sizes: LanguageSizes,
    real: Bool[Array, "B M"],
    start: int | Int[Array, ""],
) -> BlockContext:
    """Tokens from slot `start` on see the real slots up to their own."""
    queries = start + jnp.arange(positions.shape[1])
    before = jnp.arange(real.shape[1])[None, :] <= queries[:, None]
    mask = attention_mask(real[:, None, :] & before[None])
    turn = multimodal_rotation(positions, sizes.sections, sizes.rope_base)
    return BlockContext(turn, mask, jnp.asarray(start, jnp.int32))


class LanguageBlock(nn.Module):
    """Grouped-query self-attention and a gated feed-forward network, both on RMS-normed input."""

    sizes: LanguageSizes
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N language_embed"], stored: KeyValues, context: BlockContext
    ) -> tuple[Float[Array, "B N language_embed"], tuple[KeyValues, Float[Array, "B N language_embed"]]]:
        sizes, axes, dtype = self.sizes, self.sizes.axes, self.dtype
        bias = zeros if sizes.qkv_bias else None
        inner = RMSNorm("language_embed", axes, sizes.epsilon, name="attention_norm")(x).astype(dtype)
        query, key, value = (
            Linear(f"language_embed -> {heads} head_dim", axes, bias=bias, dtype=dtype, name=name)(inner)
            for name, heads in (("query", "heads"), ("key", "key_heads"), ("value", "key_heads"))
        )
        if sizes.qk_norm:
            query = RMSNorm("head_dim", axes, sizes.epsilon, name="query_norm")(query).astype(dtype)
            key = RMSNorm("head_dim", axes, sizes.epsilon, name="key_norm")(key).astype(dtype)
        query, key = rotate(query, context.rotation), rotate(key, context.rotation)
        stored = KeyValues(_write(stored.keys, key, context.start), _write(stored.values, value, context.start))
        groups = sizes.heads // sizes.key_heads
        keys, values = (jnp.repeat(part, groups, axis=2) for part in stored)
        mixed = attend(query, keys, values, context.mask)
        x = x + Linear("heads head_dim -> language_embed", axes, bias=None, dtype=dtype, name="output")(mixed)
        inner = RMSNorm("language_embed", axes, sizes.epsilon, name="mlp_norm")(x).astype(dtype)
        x = x + GatedFeedForward("language_embed", axes, dtype=dtype, name="mlp")(inner)
        return x, (stored, x)


def _write(stored: Array, new: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(stored, new.astype(stored.dtype), start, axis=1)


def language_stack(
    sizes: LanguageSizes, dtype: Any = jnp.float32, layers: int | None = None, name: str | None = None
) -> nn.Module:
    """`layers` blocks (None: `sizes.layers`) as one `nn.scan`; called with (x, stored, context), returns (x, (stored,
    hidden [layers, B, N, language_embed])). A slice of a deeper stack's parameters runs a part of its depth."""
    stack = nn.scan(
        LanguageBlock,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=sizes.layers if layers is None else layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return stack(sizes, dtype, name=name)


def run_blocks(
    parameters: Any,
    x: Float[Array, "B N language_embed"],
    stored: KeyValues,
    context: BlockContext,
    sizes: LanguageSizes,
    dtype: Any = jnp.float32,
) -> tuple[Float[Array, "B N language_embed"], KeyValues]:
    """A stack's blocks as a function of their parameters, for parts of a stack that another module owns."""
    block = LanguageBlock(sizes, dtype, parent=None)

    def layer(x, own):
        weights, stored = own
        x, (stored, _) = block.apply({"params": weights}, x, stored, context)
        return x, stored

    return jax.lax.scan(layer, x, (parameters, stored))


def depth_slice(parameters: Any, first: int, last: int) -> Any:
    """Layers `first` to `last - 1` of a stack's parameters or keys and values."""
    return jax.tree.map(lambda leaf: leaf[first:last], parameters)
