"""Causal transformer blocks of Qwen3's structure: RMS norms, grouped-query attention with QK norm, multimodal RoPE,
SwiGLU. The vision-language trunk, the small language model and the Staircase branch are stacks of them.

One code path serves training, prefill and decoding: a block writes the keys and values of its tokens into `stored` at
`start` and attends to all of it under a mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.attention import AttentionMask, attend, attention_mask
from wallwm_jax.nn.layers import GatedFeedForward, Linear, RMSNorm
from wallwm_jax.nn.positions import Rotation, rotate, rotation

ROPE_BASE = 1e6


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


def empty_key_values(
    layers: int, batch: int, slots: int, sizes: Mapping[str, int], dtype: Any = jnp.float32
) -> KeyValues:
    """Storage for a stack, all zeros."""
    shape = (layers, batch, slots, sizes["key_heads"], sizes["head_dim"])
    return KeyValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def multimodal_rotation(positions: Int[Array, "B N 3"], sections: Sequence[int]) -> Rotation:
    """Qwen's multimodal RoPE: one bank of frequencies in three sections, turned by time, row and column.

    Text has three equal positions, for which this is plain RoPE. `sections` are numbers of rotation pairs.
    """
    pairs = sum(sections)
    frequencies = ROPE_BASE ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
    axis = jnp.repeat(jnp.arange(3), jnp.array(sections), total_repeat_length=pairs)
    return rotation(positions.astype(jnp.float32)[..., axis] * frequencies)


def causal_context(
    positions: Int[Array, "B N 3"],
    sections: Sequence[int],
    real: Bool[Array, "B M"],
    start: int | Int[Array, ""],
) -> BlockContext:
    """Tokens from slot `start` on see the real slots up to their own."""
    queries = start + jnp.arange(positions.shape[1])
    before = jnp.arange(real.shape[1])[None, :] <= queries[:, None]
    mask = attention_mask(real[:, None, :] & before[None])
    return BlockContext(multimodal_rotation(positions, sections), mask, jnp.asarray(start, jnp.int32))


class LanguageBlock(nn.Module):
    """Grouped-query self-attention and a gated feed-forward network, both on RMS-normed input.

    Attributes:
      sizes: must give language_embed, heads, key_heads (divides heads), head_dim and mlp.
    """

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N language_embed"], stored: KeyValues, context: BlockContext
    ) -> tuple[Float[Array, "B N language_embed"], tuple[KeyValues, Float[Array, "B N language_embed"]]]:
        sizes, dtype = self.sizes, self.dtype
        inner = RMSNorm("language_embed", sizes, name="attention_norm")(x).astype(dtype)
        query, key, value = (
            Linear(f"language_embed -> {heads} head_dim", sizes, bias=None, dtype=dtype, name=name)(inner)
            for name, heads in (("query", "heads"), ("key", "key_heads"), ("value", "key_heads"))
        )
        query = rotate(RMSNorm("head_dim", sizes, name="query_norm")(query).astype(dtype), context.rotation)
        key = rotate(RMSNorm("head_dim", sizes, name="key_norm")(key).astype(dtype), context.rotation)
        stored = KeyValues(_write(stored.keys, key, context.start), _write(stored.values, value, context.start))
        groups = sizes["heads"] // sizes["key_heads"]
        keys, values = (jnp.repeat(part, groups, axis=2) for part in stored)
        mixed = attend(query, keys, values, context.mask)
        x = x + Linear("heads head_dim -> language_embed", sizes, bias=None, dtype=dtype, name="output")(mixed)
        inner = RMSNorm("language_embed", sizes, name="mlp_norm")(x).astype(dtype)
        x = x + GatedFeedForward("language_embed", sizes, dtype=dtype, name="mlp")(inner)
        return x, (stored, x)


def _write(stored: Array, new: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(stored, new.astype(stored.dtype), start, axis=1)


def language_stack(
    layers: int, sizes: Mapping[str, int], dtype: Any = jnp.float32, name: str | None = None
) -> nn.Module:
    """`layers` blocks as one `nn.scan`; called with (x, stored, context), returns (x, (stored, hidden [layers, B, N,
    language_embed])). A slice of a deeper stack's parameters runs a part of its depth."""
    if sizes["heads"] % sizes["key_heads"]:
        raise InputError("key_heads", sizes["key_heads"], f"a divisor of {sizes['heads']} heads")
    stack = nn.scan(
        LanguageBlock,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return stack(sizes, dtype, name=name)


def run_blocks(
    parameters: Any,
    x: Float[Array, "B N language_embed"],
    stored: KeyValues,
    context: BlockContext,
    sizes: Mapping[str, int],
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
