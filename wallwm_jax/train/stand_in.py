"""What stands in a planned step where a variant leaves the codec to somebody else."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from wallwm_jax.data.settings import FRAMES_PER_LATENT
from wallwm_jax.models.variants import Variant


@dataclasses.dataclass(frozen=True)
class LatentStandIn:
    """A `VideoCodec` whose latents have the right shape and no meaning: every cell's mean grey in all channels.

    With it a step costs what a step on latents that were encoded beforehand costs. A pretrained VAE inside the step
    would come on top.
    """

    channels: int
    spatial_compression: int
    group: int = FRAMES_PER_LATENT

    def encode_groups(self, frames: Float[Array, "*batch R H W 3"]) -> Float[Array, "*batch h w C"]:
        *batch, group, height, width, colours = frames.shape
        side = self.spatial_compression
        cells = frames.reshape(*batch, group, height // side, side, width // side, side, colours)
        grey = jnp.mean(cells, axis=(-6, -4, -2, -1))
        return jnp.broadcast_to(grey[..., None], (*grey.shape, self.channels))

    def decode_groups(self, latents: Float[Array, "*batch h w C"]) -> Float[Array, "*batch R H W 3"]:
        grey = jnp.mean(latents, axis=-1)
        for axis in (-2, -1):
            grey = jnp.repeat(grey, self.spatial_compression, axis)
        *batch, height, width = grey.shape
        return jnp.broadcast_to(grey[..., None, :, :, None], (*batch, self.group, height, width, 3))


def with_codec(variant: Variant, spatial_compression: int) -> Variant:
    """The variant, with a `LatentStandIn` if it has no codec of its own."""
    if variant.codec is not None:
        return variant
    return dataclasses.replace(variant, codec=LatentStandIn(variant.channels, spatial_compression))
