"""From a vision-language trunk's hidden states to what the world model and the planner need (WALL-WM eq. 21).

`ProjectOut` gives text features for the towers, `CaptionHead` the tokens of the next event's caption, `RemainingTime`
how long the event will still take.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from wallwm_jax.core.types import UNIFIED_DIMENSION
from wallwm_jax.nn.attention import Heads, attend, attention_mask
from wallwm_jax.nn.layers import FeedForward, GatedFeedForward, Linear, RMSNorm
from wallwm_jax.nn.parameters import Initializer, normal, parameter, zeros

_TYPICAL_STEPS = 20.0
"""What an untrained regressor answers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionerSizes:
    """Sizes of the heads on a trunk's hidden states.

    Attributes:
      trunk_embed: width of the hidden states.
      embed, heads, mlp, layers: of the project-out's and the remaining time's reading blocks.
      text_embed: width of the text encoder's features.
      text_length: L, tokens of a caption in the text encoder's counting.
      vocabulary: the trunk's.
      questions: what the remaining time asks of the hidden states.
    """

    trunk_embed: int
    embed: int
    heads: int
    mlp: int
    layers: int
    text_embed: int
    text_length: int
    vocabulary: int
    questions: int = 4

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes that parameters declare."""
        axes = {"language_embed": self.trunk_embed, "embed": self.embed, "heads": self.heads, "mlp": self.mlp}
        axes |= {"head_dim": self.embed // self.heads, "position": self.text_length, "text_embed": self.text_embed}
        axes |= {"vocabulary": self.vocabulary, "query": self.questions, "dof": UNIFIED_DIMENSION}
        return axes | {"output": 1}


class Reading(nn.Module):
    """Multi-head attention of normed queries over a source of width `axis`, with QK norms.

    Attributes:
      axis: "language_embed", or "embed" for the queries themselves.
      sizes: must give embed (of the queries), the axis, heads, head_dim.
    """

    axis: str
    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L embed"], source: Float[Array, "B N width"], mask: Bool[Array, "B N"]
    ) -> Float[Array, "B L embed"]:
        sizes, dtype = self.sizes, self.dtype
        query = Heads("embed", sizes, norm=True, dtype=dtype, name="query")(x)
        key = Heads(self.axis, sizes, norm=True, dtype=dtype, name="key")(source)
        value = Heads(self.axis, sizes, dtype=dtype, name="value")(source)
        found = attend(query, key, value, attention_mask(mask[:, None]))
        return Linear("heads head_dim -> embed", sizes, bias=None, dtype=dtype, name="output")(found)


class ReadingBlock(nn.Module):
    """Queries read a source, then each other, and are then transformed; pre-norm.

    Attributes:
      sizes: must give embed (of the queries), language_embed (of the source), heads, head_dim, mlp.
    """

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L embed"],
        source: Float[Array, "B N language_embed"],
        source_mask: Bool[Array, "B N"],
        own_mask: Bool[Array, "B L"],
    ) -> Float[Array, "B L embed"]:
        sizes, dtype = self.sizes, self.dtype
        inner = RMSNorm("embed", sizes, name="source_norm")(x)
        x = x + Reading("language_embed", sizes, dtype, name="source")(inner, source, source_mask)
        inner = RMSNorm("embed", sizes, name="own_norm")(x)
        x = x + Reading("embed", sizes, dtype, name="own")(inner, inner, own_mask)
        inner = RMSNorm("embed", sizes, name="mlp_norm")(x)
        return x + FeedForward("embed", sizes, dtype, name="mlp")(inner)


class ProjectOut(nn.Module):
    """Hidden states of N tokens -> features of L tokens in the text encoder's space, at its statistics.

    The two sides count tokens differently, so each of the L places asks for its feature. The last step is the norm
    with which the text encoder itself ends. DECIDE (WALL-WM 5 gives an aligned head and no form for it).

    Attributes:
      presence: whether it also says which of the L places the text reaches, for a text that nobody has written.
    """

    sizes: ConditionerSizes
    presence: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        source: Float[Array, "B N language_embed"],
        source_mask: Bool[Array, "B N"],
        own_mask: Bool[Array, "B L"] | None,
    ) -> tuple[Float[Array, "B L text_embed"], Float[Array, "B L"] | None]:
        """Features, and for every place the log odds that the text reaches it. `own_mask` says where it does, if that
        is known: features are zero elsewhere, and no place reads one."""
        sizes, batch = self.sizes.axes, len(source)
        source = RMSNorm("language_embed", sizes, name="source_norm")(source)
        place = parameter(self, "place", "[position] embed", sizes, normal(1.0))
        real = jnp.ones((batch, len(place)), bool) if own_mask is None else own_mask
        x = jnp.broadcast_to(place, (batch, *place.shape)).astype(self.dtype)
        for number in range(self.sizes.layers):
            x = ReadingBlock(sizes, self.dtype, name=f"block{number}")(x, source, source_mask, real)
        x = RMSNorm("embed", sizes, name="norm")(x)
        features = Linear("embed -> text_embed @adamw", sizes, dtype=self.dtype, name="features")(x)
        features = RMSNorm("text_embed", sizes, name="features_norm")(features)
        features = jnp.where(real[..., None], features, 0.0)
        return features, Linear("embed -> output @adamw", sizes, name="reach")(x)[..., 0] if self.presence else None


class CaptionHead(nn.Module):
    """Hidden state of a token -> scores of the caption's next token; fp32. Its network is twice the trunk's width."""

    sizes: ConditionerSizes
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B n language_embed"]) -> Float[Array, "B n vocabulary"]:
        sizes = self.sizes.axes | {"mlp": 2 * self.sizes.trunk_embed}
        x = RMSNorm("language_embed", sizes, name="norm")(hidden)
        x = x + GatedFeedForward("language_embed", sizes, dtype=self.dtype, name="mlp")(x)
        x = RMSNorm("language_embed", sizes, name="output_norm")(x)
        return Linear("language_embed -> vocabulary @adamw", sizes, name="output")(x)


class RemainingTime(nn.Module):
    """Log control steps that remain of an event, read from the trunk's tokens and the robot's state; fp32."""

    sizes: ConditionerSizes
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B N language_embed"],
        mask: Bool[Array, "B N"],
        state: Float[Array, "B 26"],
        dof_mask: Bool[Array, "B 26"],
    ) -> Float[Array, "B"]:
        sizes = self.sizes.axes
        hidden = RMSNorm("language_embed", sizes, name="source_norm")(hidden)
        known = jnp.concatenate([jnp.where(dof_mask, state, 0.0), dof_mask.astype(jnp.float32)], -1)
        inputs = {**sizes, "dof": 2 * sizes["dof"]}
        x = Linear("dof -> embed @adamw", inputs, dtype=self.dtype, name="state")(known)
        x = x[:, None] + parameter(self, "query", "[query] embed", sizes, normal(1.0))
        all_of_them = jnp.ones(x.shape[:2], bool)
        for number in range(2):
            x = ReadingBlock(sizes, self.dtype, name=f"block{number}")(x, hidden, mask, all_of_them)
        x = RMSNorm("embed", sizes, name="norm")(x).mean(1)
        start = Initializer(math.log(_TYPICAL_STEPS))
        return Linear("embed -> output @adamw", sizes, zeros, start, name="output")(x)[:, 0]
