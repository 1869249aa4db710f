"""The vision-language side of WALL-WM (section 5): a trunk, what stage 3 and stage 4 train on it, and the two frozen
models that supervise them.

    trunk            pictures, instruction, memory -> hidden states, keys and values of every layer
    conditioner      caption's hidden states -> text features; next-event captions; remaining time       (stage 3)
    staircase        K continuous latents; their prefix for the language model; their text features      (stage 4)
    language_model   the small frozen model that must be able to put the latents into words
    text_encoder     the world model's own, frozen: the space that text features must lie in
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from jaxtyping import Array, Bool, Float, Int, UInt8

from wallwm_jax.core.types import PlanBatch
from wallwm_jax.models.reasoner_variants import ReasonerVariant
from wallwm_jax.models.variants import Variant
from wallwm_jax.nn.conditioner import CaptionHead, ConditionerSizes, ProjectOut, RemainingTime
from wallwm_jax.nn.layers import Linear, RMSNorm
from wallwm_jax.nn.staircase import Staircase, StaircaseSizes
from wallwm_jax.nn.text_encoder import TextEncoder
from wallwm_jax.nn.vision_language import Tokens, TrunkFeatures, VisionLanguageTrunk, text_positions


class Conditioner(nn.Module):
    """Stage 3: what is trained on the frozen trunk's hidden states (eq. 21)."""

    sizes: ConditionerSizes
    dtype: Any = jnp.float32

    def setup(self):
        self.project_out = ProjectOut(self.sizes, dtype=self.dtype)
        self.caption = CaptionHead(self.sizes, self.dtype)
        self.remaining = RemainingTime(self.sizes, self.dtype)


class StaircaseBranch(nn.Module):
    """Stage 4: the branch above the relay depth, the prefix projector, and the latents' own project-out."""

    sizes: StaircaseSizes
    heads: ConditionerSizes
    prefix_tokens: int
    """Soft tokens that a latent gives the small language model."""
    language_embed: int
    """Width of that model."""
    dtype: Any = jnp.float32

    def setup(self):
        self.branch = Staircase(self.sizes, self.dtype)
        width = self.sizes.trunk.embed
        prefix = {"embed": width, "latent": self.prefix_tokens, "language_embed": self.language_embed, "mlp": 2 * width}
        self.prefix_norm = RMSNorm("embed", prefix)
        self.prefix_up = Linear("embed -> mlp", prefix, dtype=self.dtype)
        self.prefix_down = Linear("mlp -> latent language_embed", prefix, dtype=self.dtype)
        self.project_out = ProjectOut(self.heads, True, self.dtype)

    def prefix(self, latents: Float[Array, "B K embed"]) -> Float[Array, "B prefix language_embed"]:
        """Soft tokens for the small language model, `prefix` a latent."""
        hidden = nn.gelu(self.prefix_up(self.prefix_norm(latents)), approximate=True)
        soft = self.prefix_down(hidden)
        return soft.reshape(len(soft), -1, soft.shape[-1])


class Reasoner(nn.Module):
    """The module. Methods are called as `reasoner.apply({"params": params}, ..., method="read")`.

    Attributes:
      variant: the size.
      world: the world model's size: its text encoder is part of this one.
      views: cameras.
      text_length: tokens L of the text encoder that a caption may have.
    """

    variant: ReasonerVariant
    world: Variant
    views: int
    text_length: int
    dtype: Any = jnp.float32

    def setup(self):
        row, world = self.variant, self.world
        trunk, heads = row.trunk(self.views), row.conditioner(world.text_embed, self.text_length)
        staircase = StaircaseSizes(trunk=trunk, relay_depth=row.relay_depth, latents=row.latents)
        self.trunk = VisionLanguageTrunk(trunk, self.dtype)
        self.language_model = VisionLanguageTrunk(row.language_model, self.dtype)
        self.text_encoder = TextEncoder(world.text, self.dtype)
        self.conditioner = Conditioner(heads, self.dtype)
        self.staircase = StaircaseBranch(staircase, heads, row.prefix, row.language_embed, self.dtype)

    def __call__(self, batch: PlanBatch) -> tuple[Array, ...]:
        """Every part once: what initialisation runs."""
        hidden, mask = self.with_caption(batch)
        latents = self.think(self.read(batch))
        return (
            self.trunk.logits(hidden),
            self.caption_scores(hidden),
            self.remaining_time(hidden, mask, batch.state, batch.dof_mask),
            self.condition(hidden[:, -batch.caption.shape[1] :], batch.caption_mask, batch.text_mask),
            self.reconstruct(latents, batch.trace, batch.trace_mask),
            self.condition_by_latents(latents)[0],
            self.encode_text(batch.text, batch.text_mask),
        )

    def read(self, batch: PlanBatch, room: int = 0) -> TrunkFeatures:
        """The trunk's features of pictures and prompt, with `room` slots for what will be generated after them."""
        return self.trunk.features(self._embed(batch, batch.prompt, batch.prompt_mask), room)

    def extend(
        self, features: TrunkFeatures, tokens: Int[Array, "B n"], start: int | Int[Array, ""]
    ) -> tuple[TrunkFeatures, Float[Array, "B n embed"]]:
        """`n` more tokens in the slots from `start` on, and the last block's hidden states of them; `hidden` of the
        features stays as it was, so that decoding can carry them along."""
        words = self.trunk.embed_text(tokens, jnp.ones(tokens.shape, bool))
        extended = self.trunk.extend(features, words, start)
        return extended._replace(hidden=features.hidden), extended.hidden[-1]

    def with_caption(self, batch: PlanBatch) -> tuple[Float[Array, "B N embed"], Bool[Array, "B N"]]:
        """The last block's hidden states of patches, prompt and caption (in this order), and their mask."""
        text = jnp.concatenate([batch.prompt, batch.caption], 1)
        real = jnp.concatenate([batch.prompt_mask, batch.caption_mask], 1)
        features = self.trunk.features(self._embed(batch, text, real))
        return features.hidden[-1], features.mask

    def trunk_scores(self, batch: PlanBatch) -> Float[Array, "B T vocabulary"]:
        """The trunk as a language model: scores of the token after each token of prompt, caption and trace."""
        text = jnp.concatenate([batch.prompt, batch.caption, batch.trace], 1)
        real = jnp.concatenate([batch.prompt_mask, batch.caption_mask, batch.trace_mask], 1)
        features = self.trunk.features(self._embed(batch, text, real))
        return self.trunk.logits(features.hidden[-1][:, -text.shape[1] :])

    def caption_scores(self, hidden: Float[Array, "B n embed"]) -> Float[Array, "B n vocabulary"]:
        """Scores of the token of the next event's caption after each of these."""
        return self.conditioner.caption(hidden)

    def remaining_time(
        self, hidden: Array, mask: Bool[Array, "B N"], state: Float[Array, "B 26"], dof_mask: Bool[Array, "B 26"]
    ) -> Float[Array, "B"]:
        """Log control steps that remain, from what `with_caption` gave."""
        return self.conditioner.remaining(hidden, mask, state, dof_mask)

    def condition(
        self, hidden: Float[Array, "B C embed"], caption_mask: Bool[Array, "B C"], text_mask: Bool[Array, "B L"]
    ) -> Float[Array, "B L text_embed"]:
        """Text features from the hidden states of a caption's tokens: a drop-in for the text encoder's."""
        return self.conditioner.project_out(hidden, caption_mask, text_mask)[0]

    def think(self, features: TrunkFeatures, schedule: str = "staircase") -> Float[Array, "B K embed"]:
        """The Staircase's latents (eqs. 16-17) after a prompt that `read` has read without room."""
        trunk = meta.unbox(self.trunk.variables["params"])
        return self.staircase.branch.think(features, trunk["blocks"], schedule)

    def condition_by_latents(
        self, latents: Float[Array, "B K embed"]
    ) -> tuple[Float[Array, "B L text_embed"], Float[Array, "B L"]]:
        """Text features of the coming event from the latents, and the log odds that a place holds a token."""
        return self.staircase.project_out(latents, jnp.ones(latents.shape[:2], bool), None)

    def reconstruct(
        self, latents: Float[Array, "B K embed"], trace: Int[Array, "B R"], trace_mask: Bool[Array, "B R"]
    ) -> Float[Array, "B R vocabulary"]:
        """The small language model's scores of the token after each token of a trace, given the latents' soft prefix
        (eq. 18)."""
        prefix = self.staircase.prefix(latents)
        words = self.language_model.embed_text(trace, trace_mask)
        real = jnp.concatenate([jnp.ones(prefix.shape[:2], bool), trace_mask], 1)
        tokens = Tokens(jnp.concatenate([prefix, words], 1), text_positions(real), real)
        hidden = self.language_model.features(tokens).hidden[-1]
        return self.language_model.logits(hidden[:, -trace.shape[1] :])

    def language_scores(self, text: Int[Array, "B T"], text_mask: Bool[Array, "B T"]) -> Float[Array, "B T vocabulary"]:
        """The small language model on text alone."""
        return self.language_model(None, None, text, text_mask)

    def encode_text(self, text: Int[Array, "B L"], text_mask: Bool[Array, "B L"]) -> Float[Array, "B L text_embed"]:
        """The world model's text features."""
        return self.text_encoder(text, text_mask)

    def _embed(self, batch: PlanBatch, text: Array, text_mask: Array) -> Tokens:
        return self.trunk.embed(patches(batch.views, self.variant.patch), batch.view_mask, text, text_mask)


def patches(views: UInt8[Array, "B V H W 3"], side: int) -> Float[Array, "B V rows columns patch"]:
    """Square patches of pixels in [-1, 1]; the picture's sides must be multiples of `side`."""
    batch, count, height, width, _ = views.shape
    grid = views.reshape(batch, count, height // side, side, width // side, side, 3)
    grid = jnp.swapaxes(grid, 3, 4).astype(jnp.float32) / 127.5 - 1.0
    return grid.reshape(batch, count, height // side, width // side, 3 * side**2)
