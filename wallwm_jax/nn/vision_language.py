"""A causal vision-language trunk: image patches of all views, then text (WALL-WM section 5).

What other parts read is `TrunkFeatures`, which a converted pretrained model fills just as well. Without images the same
module is a language model.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.language import KeyValues, LanguageSizes, causal_context, empty_key_values, language_stack
from wallwm_jax.nn.layers import Linear, RMSNorm
from wallwm_jax.nn.parameters import normal, parameter


class Tokens(NamedTuple):
    """A sequence of embeddings before the first block."""

    embeddings: Float[Array, "B N language_embed"]
    positions: Int[Array, "B N 3"]
    """Time, row and column; equal for text."""
    mask: Bool[Array, "B N"]


class TrunkFeatures(NamedTuple):
    """Everything a trunk shows of N tokens in M >= N slots."""

    hidden: Float[Array, "depths B N language_embed"]
    """Entry 0 are the embeddings, entry i is what block i (from 1) gives; `depths` is layers + 1."""
    memory: KeyValues
    """Keys and values of every layer, `[layers, B, M, key_heads, head_dim]`."""
    mask: Bool[Array, "B M"]
    """Slots that hold a real token."""
    next_position: Int[Array, "B"]
    """The position of the token that would come next, on all three axes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionLanguageSizes(LanguageSizes):
    """Sizes of a trunk: those of its blocks, and of its inputs.

    Attributes:
      vocabulary: token ids are below this.
      patch: values of an image patch, 3 x side^2 for pixels.
      views: cameras; 0 for a language model.
    """

    vocabulary: int
    patch: int = 0
    views: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.views and not self.patch:
            raise InputError("patch", self.patch, f"values of an image patch, for {self.views} views")

    @property
    def axes(self) -> dict[str, int]:
        return super().axes | {"vocabulary": self.vocabulary, "patch": self.patch, "view": self.views}


class VisionLanguageTrunk(nn.Module):
    """The trunk. `__call__` gives the next token's scores; other methods are called as
    `trunk.apply({"params": params}, ..., method="read")`.

    A language model that reads a caption of three tokens, and one of two:

        trunk = VisionLanguageTrunk(
            sizes=VisionLanguageSizes(layers=2, embed=32, heads=4, key_heads=2, mlp=64, vocabulary=259)
        )
        text, mask = jnp.array([[5, 6, 7], [8, 9, 0]]), jnp.array([[1, 1, 1], [1, 1, 0]], bool)
        variables = unbox(trunk.init(jax.random.key(0), None, None, text, mask))
        scores = trunk.apply(variables, None, None, text, mask)  # [2, 3, 259]
        features = trunk.apply(variables, None, None, text, mask, method="read")
    """

    sizes: VisionLanguageSizes
    dtype: Any = jnp.float32

    def setup(self):
        sizes, axes = self.sizes, self.sizes.axes
        self.embedding = parameter(self, "embedding", "[vocabulary] language_embed", axes, normal(0.02))
        if sizes.views:
            self.patch_embedding = Linear("patch -> language_embed @adamw", axes, dtype=self.dtype)
            self.view_embedding = parameter(self, "view_embedding", "[view] language_embed", axes, normal(0.02))
        self.blocks = language_stack(sizes, self.dtype)
        self.norm = RMSNorm("language_embed", axes, sizes.epsilon)

    def __call__(
        self,
        images: Float[Array, "B V rows columns patch"] | None,
        view_mask: Bool[Array, "B V"] | None,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"],
    ) -> Float[Array, "B L vocabulary"]:
        """Scores of the token after each text token; fp32.

        Args:
            images: patches of the pictures of every view, in any scale that training had; None without pictures.
            view_mask: which views are there; None without pictures.
            text: token ids; anything where the mask is False.
            text_mask: True on real tokens, which come first.
        """
        features = self.read(images, view_mask, text, text_mask)
        return self.logits(features.hidden[-1][:, -text.shape[1] :])

    def read(
        self,
        images: Float[Array, "B V rows columns patch"] | None,
        view_mask: Bool[Array, "B V"] | None,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"],
        room: int = 0,
    ) -> TrunkFeatures:
        """Everything that the trunk shows of pictures and text: hidden states, keys and values of every layer. `room`
        slots are kept for `extend`."""
        return self.features(self.embed(images, view_mask, text, text_mask), room)

    def embed(
        self,
        images: Float[Array, "B V rows columns patch"] | None,
        view_mask: Bool[Array, "B V"] | None,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"],
    ) -> Tokens:
        """Image patches view by view, then text. Masked views and text keep their slots and are never seen."""
        words = self.embed_text(text, text_mask)
        if images is None:
            return Tokens(words, text_positions(text_mask), text_mask)
        batch, views, rows, columns, _ = images.shape
        patches = self.patch_embedding(images) + self.view_embedding[:, None, None]
        side = max(rows, columns)
        view, row, column = jnp.meshgrid(jnp.arange(views), jnp.arange(rows), jnp.arange(columns), indexing="ij")
        places = jnp.stack([view * side, view * side + row, view * side + column], -1).reshape(1, -1, 3)
        places = jnp.broadcast_to(places, (batch, views * rows * columns, 3))
        return Tokens(
            jnp.concatenate([patches.reshape(batch, -1, patches.shape[-1]), words], 1),
            jnp.concatenate([places, text_positions(text_mask, views * side)], 1),
            jnp.concatenate([jnp.repeat(view_mask, rows * columns, axis=1), text_mask], 1),
        )

    def embed_text(self, text: Int[Array, "B L"], text_mask: Bool[Array, "B L"]) -> Float[Array, "B L language_embed"]:
        """Token embeddings; ids where the mask is False may be anything."""
        return self.embedding[jnp.where(text_mask, text, 0)].astype(self.dtype)

    def features(self, tokens: Tokens, room: int = 0) -> TrunkFeatures:
        """The whole sequence in one pass, with `room` further slots for `extend`."""
        batch, length = tokens.mask.shape
        real = jnp.pad(tokens.mask, ((0, 0), (0, room)))
        stored = empty_key_values(self.sizes, batch, length + room, self.dtype)
        context = causal_context(tokens.positions, self.sizes, real, 0)
        _, (memory, hidden) = self.blocks(tokens.embeddings, stored, context)
        hidden = jnp.concatenate([tokens.embeddings[None].astype(hidden.dtype), hidden])
        last = jnp.max(jnp.where(tokens.mask[..., None], tokens.positions, -1), axis=(1, 2))
        return TrunkFeatures(hidden, memory, real, last + 1)

    def extend(
        self, features: TrunkFeatures, embeddings: Float[Array, "B n language_embed"], start: int | Int[Array, ""]
    ) -> TrunkFeatures:
        """`n` more real tokens in the slots from `start` on; `hidden` is that of the new tokens."""
        count = embeddings.shape[1]
        slots = jnp.arange(features.mask.shape[1])
        real = features.mask | ((slots >= start) & (slots < start + count))[None]
        places = features.next_position[:, None] + jnp.arange(count)
        context = causal_context(jnp.repeat(places[..., None], 3, -1), self.sizes, real, start)
        _, (memory, hidden) = self.blocks(embeddings, features.memory, context)
        hidden = jnp.concatenate([embeddings[None].astype(hidden.dtype), hidden])
        return TrunkFeatures(hidden, memory, real, features.next_position + count)

    def logits(self, hidden: Float[Array, "B n language_embed"]) -> Float[Array, "B n vocabulary"]:
        """Scores of the next token, with the embedding's weights; fp32."""
        return self.norm(hidden) @ self.embedding.T.astype(jnp.float32)


def text_positions(mask: Bool[Array, "B L"], first: int = 0) -> Int[Array, "B L 3"]:
    """Real tokens count up from `first`; padding does not count."""
    places = first + jnp.maximum(jnp.cumsum(mask, -1) - 1, 0)
    return jnp.repeat(places[..., None], 3, -1)
