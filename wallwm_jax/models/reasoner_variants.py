"""Sizes of the vision-language side: a size is a row of `REASONERS`."""

import dataclasses
from collections.abc import Mapping

from wallwm_jax.core.errors import InputError
from wallwm_jax.models.variants import row_of
from wallwm_jax.nn.conditioner import ConditionerSizes
from wallwm_jax.nn.vision_language import VisionLanguageSizes


@dataclasses.dataclass(frozen=True)
class ReasonerVariant:
    """One size.

    Attributes:
      layers, embed, heads, key_heads, mlp: the trunk's; a head's width is embed / heads, and even.
      sections: rotation pairs turned by time, row and column; they sum to half a head's width.
      patch: side of an image patch in pixels.
      vocabulary: ids of the caption tokens; at least as many as the dataset's tokenizer has.
      relay_depth: N_r of the Staircase. latents: K.
      prefix: soft tokens that a latent gives the small language model.
      language_layers, language_embed, language_heads, language_mlp: the small language model's.
      head_embed, head_heads, head_mlp, head_layers: widths and depth of the project-outs and the remaining-time head.
    """

    layers: int
    embed: int
    heads: int
    key_heads: int
    mlp: int
    sections: tuple[int, int, int]
    patch: int
    vocabulary: int
    relay_depth: int
    latents: int
    prefix: int
    language_layers: int
    language_embed: int
    language_heads: int
    language_mlp: int
    head_embed: int
    head_heads: int
    head_mlp: int
    head_layers: int = 2

    def __post_init__(self):
        for width, heads in (("embed", "heads"), ("language_embed", "language_heads"), ("head_embed", "head_heads")):
            if getattr(self, width) % (2 * getattr(self, heads)):
                expected = f"a multiple of 2 x {getattr(self, heads)} heads"
                raise InputError(f"reasoner.{width}", getattr(self, width), expected)
        if sum(self.sections) != self.embed // self.heads // 2:
            raise InputError("reasoner.sections", self.sections, f"a sum of {self.embed // self.heads // 2}")
        if not 0 < self.relay_depth < self.layers:
            raise InputError("reasoner.relay_depth", self.relay_depth, f"1 to {self.layers - 1}")

    def trunk(self, views: int) -> VisionLanguageSizes:
        """Sizes of the trunk, for that many cameras."""
        return VisionLanguageSizes(
            layers=self.layers,
            embed=self.embed,
            heads=self.heads,
            key_heads=self.key_heads,
            mlp=self.mlp,
            sections=self.sections,
            vocabulary=self.vocabulary,
            patch=3 * self.patch**2,
            views=views,
        )

    @property
    def language_model(self) -> VisionLanguageSizes:
        """Sizes of the small language model."""
        return VisionLanguageSizes(
            layers=self.language_layers,
            embed=self.language_embed,
            heads=self.language_heads,
            key_heads=self.language_heads,
            mlp=self.language_mlp,
            vocabulary=self.vocabulary,
        )

    def conditioner(self, text_embed: int, text_length: int) -> ConditionerSizes:
        """Sizes of the heads, for a text encoder's width and a caption's tokens."""
        return ConditionerSizes(
            trunk_embed=self.embed,
            embed=self.head_embed,
            heads=self.head_heads,
            mlp=self.head_mlp,
            layers=self.head_layers,
            text_embed=text_embed,
            text_length=text_length,
            vocabulary=self.vocabulary,
        )


REASONERS: Mapping[str, ReasonerVariant] = {
    "micro": ReasonerVariant(
        layers=3, embed=32, heads=4, key_heads=2, mlp=48, sections=(2, 1, 1), patch=8, vocabulary=512,
        relay_depth=2, latents=4, prefix=2, language_layers=2, language_embed=32, language_heads=2, language_mlp=48,
        head_embed=32, head_heads=2, head_mlp=64, head_layers=1,
    ),
    "tiny": ReasonerVariant(
        layers=6, embed=128, heads=4, key_heads=2, mlp=384, sections=(6, 5, 5), patch=16, vocabulary=512,
        relay_depth=4, latents=8, prefix=2, language_layers=4, language_embed=128, language_heads=4, language_mlp=384,
        head_embed=128, head_heads=4, head_mlp=256,
    ),
}  # fmt: skip
"""`tiny` stands where the paper has Qwen3.5-9B and 0.8B: trained from scratch on the recorded scenes."""


def reasoner_variant(name: str, overrides: Mapping[str, object] | None = None) -> ReasonerVariant:
    """The row `name` with some fields replaced; raises InputError for an unknown row or field."""
    return row_of(REASONERS, "reasoner", name, overrides)
