"""The multi-view video diffusion transformer (WALL-WM section 3): Wan's transformer with cross-view attention.

`VideoDiT` is the whole network on plain arrays. `VideoTower` is the part of it around the blocks, for a model that
runs these blocks in one scan with those of the action tower (`nn.towers`).
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn import masks, positions
from wallwm_jax.nn.activations import exchange, joined
from wallwm_jax.nn.attention import attention_mask
from wallwm_jax.nn.layers import Linear, TimeModulation, gather_segments, layer_norm
from wallwm_jax.nn.parameters import normal, parameter, zeros
from wallwm_jax.nn.patches import grid_of, patchify, unpatchify
from wallwm_jax.nn.slots import Slots
from wallwm_jax.nn.towers import towers
from wallwm_jax.nn.video_block import VIDEO_MODULATIONS, VideoContext


@dataclasses.dataclass(frozen=True)
class VideoDiTSizes:
    """Sizes of a video tower. The defaults that are numbers are Wan's.

    Attributes:
      layers: blocks.
      embed: width of a token; a multiple of 2 x heads.
      mlp: hidden width of the feed-forward networks.
      channels: latent channels C.
      text_embed: width of the caption features.
      views: rows of the view table, the most views that a batch may have.
      patch: side of a patch in latent cells.
      frequency: sines and cosines of the diffusion time.
      predicted: numbers that the head gives each latent cell; None for C, a velocity.
      guides: channels a cell that are given beside the latents (`nn.guidance`); the paper's model has none.
    """

    layers: int
    embed: int
    heads: int
    mlp: int
    channels: int
    text_embed: int
    views: int = 1
    patch: int = 2
    frequency: int = 256
    predicted: int | None = None
    guides: int = 0

    def __post_init__(self):
        if self.embed % (2 * self.heads):
            raise InputError("VideoDiTSizes.embed", self.embed, f"a multiple of 2 x {self.heads} heads")

    @property
    def pairs(self) -> int:
        """Rotation pairs of a head."""
        return self.embed // self.heads // 2

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes that the tower's parameters declare."""
        return {
            "embed": self.embed,
            "heads": self.heads,
            "head_dim": self.embed // self.heads,
            "mlp": self.mlp,
            "text_embed": self.text_embed,
            "frequency": self.frequency,
            "modulation": VIDEO_MODULATIONS,
            "view": self.views,
            "view_rotation": positions.view_rotation_size(self.pairs),
        }


class VideoPass(NamedTuple):
    """A forward pass between the patch embedding and the blocks."""

    tokens: Float[Array, "B F V n embed"]
    context: VideoContext
    time: Float[Array, "B F embed"]
    """Each slot's time embedding, for the head."""


class VideoOutput(NamedTuple):
    """What `VideoDiT` returns."""

    prediction: Float[Array, "B F V h w predicted"]
    """Of the head, fp32; a velocity unless the caller trains it to be something else."""
    features: Float[Array, "layers B F V n embed"]
    """The output of every block, which `ActionDiT` reads."""


class VideoTower(nn.Module):
    """What surrounds the video blocks: patch embedding, time, caption projection, camera angles and the head."""

    sizes: VideoDiTSizes
    dtype: Any = jnp.float32

    def setup(self):
        row, sizes = self.sizes, self.sizes.axes
        # The conditioning y, its indicator and guides sit beside the noisy latents on the same grid.
        inputs = {**sizes, "patch": row.patch**2 * (2 * row.channels + 1 + row.guides)}
        outputs = {**sizes, "patch": row.patch**2 * (row.channels if row.predicted is None else row.predicted)}
        self.embedding = Linear("patch -> embed @adamw", inputs, dtype=self.dtype)
        self.time = TimeModulation("embed", sizes)
        self.text_first = Linear("text_embed -> embed", sizes, dtype=self.dtype)
        self.text_second = Linear("embed -> embed", sizes, dtype=self.dtype)
        self.view_angles = parameter(self, "view_angles", "[view] view_rotation", sizes, normal(1.0))
        self.head_modulation = parameter(
            self, "head_modulation", "[modulation] embed", {**sizes, "modulation": 2}, normal(row.embed**-0.5)
        )
        self.head = Linear("embed -> patch @adamw", outputs, zeros)

    def begin(
        self,
        noisy: Float[Array, "B F V h w C"],
        time: Float[Array, "B S"],
        text: Float[Array, "B S L text_embed"],
        *,
        text_mask: Bool[Array, "B S L"],
        observed: Float[Array, "B F V h w C"],
        slots: Slots,
        guides: Float[Array, "B F V h w guides"] | None = None,
        visible: Bool[Array, "B F q k"] | None = None,
    ) -> VideoPass:
        """Tokens and what all blocks read; arguments as those of `VideoDiT`."""
        self._check(noisy, guides)
        rows, frames, views, height, width, _ = noisy.shape
        grid, pairs = grid_of(height, width, self.sizes.patch), self.sizes.pairs
        patches, ids = grid[0] * grid[1], slots.segment_ids
        embedding, modulation = (gather_segments(part, ids) for part in self.time(time))
        within = positions.within_view_angles(slots.positions, *grid, pairs).reshape(rows, frames * patches, pairs)
        across = positions.cross_view_angles(slots.positions, *grid, self.view_angles[:views], pairs)
        captions = self.text_second(nn.gelu(self.text_first(text), approximate=True))
        readable = gather_segments(text_mask, ids)
        context = VideoContext(
            modulation=modulation,
            within_view_rotation=positions.rotation(within),
            within_view_mask=masks.within_view_mask(ids, slots.views, patches),
            cross_view_rotation=positions.rotation(across.reshape(*joined(rows, frames), views * patches, pairs)),
            cross_view_mask=masks.cross_view_mask(slots.views, patches, visible),
            text=exchange(captions, "rows segments letters embed"),
            text_segments=ids,
            text_mask=attention_mask(readable.reshape(*joined(rows, frames), 1, -1)),
        )
        return VideoPass(self._embed(noisy, observed, slots.observed, guides), context, embedding)

    def finish(
        self, x: Float[Array, "B F V n embed"], time: Float[Array, "B F embed"], grid: tuple[int, int]
    ) -> Float[Array, "B F V h w predicted"]:
        """The head: AdaLN and a linear map that starts at zero; fp32, as the loss needs it."""
        shift, scale = (time + row for row in self.head_modulation)
        values = self.head(layer_norm(x) * (1.0 + scale[:, :, None, None]) + shift[:, :, None, None])
        return unpatchify(values, grid, self.sizes.patch)

    def _embed(self, noisy: Array, observed: Array, is_observed: Array, guides: Array | None) -> Array:
        """Patch tokens of the noisy latents, the conditioning y (blank where nothing is observed), its indicator and
        the guides."""
        indicator = jnp.broadcast_to(is_observed[:, :, None, None, None, None], (*noisy.shape[:-1], 1))
        conditioning = jnp.where(indicator, observed, 0.0)
        beside = () if guides is None else (guides,)
        cells = jnp.concatenate([noisy, conditioning, indicator.astype(noisy.dtype), *beside], -1)
        return self.embedding(patchify(cells, self.sizes.patch))

    def _check(self, noisy: Array, guides: Array | None) -> None:
        """Raises InputError for latents that these sizes have no parameters for."""
        row, given = self.sizes, 0 if guides is None else guides.shape[-1]
        if noisy.shape[2] > row.views:
            raise InputError("views of the latents", noisy.shape[2], f"at most {row.views}, the rows of the view table")
        if noisy.shape[-1] != row.channels:
            raise InputError("channels of the latents", noisy.shape[-1], row.channels)
        if given != row.guides:
            raise InputError("channels of the guides", given, row.guides)


class VideoDiT(VideoTower):
    """The video diffusion transformer, on plain arrays.

    Letters: B rows, F latent frames (slots), V views, h x w latent cells that the patch divides, C latent channels,
    S captions a row, L caption tokens, n = (h / patch) (w / patch) tokens of a view.

        dit = VideoDiT(sizes=VideoDiTSizes(layers=2, embed=32, heads=2, mlp=64, channels=8, text_embed=16, views=3))
        given = {"text_mask": text_mask, "view_mask": view_mask, "observed": latents, "observed_mask": observed_mask}
        variables = nn.meta.unbox(dit.init(key, noisy, time, text, **given))
        velocity, features = dit.apply(variables, noisy, time, text, **given)

    Attributes:
      sizes: widths and counts.
      dtype: of the matrix products; parameters, norms, softmax and outputs are fp32.
      cross_view: whether blocks have the cross-view branch; it starts as the identity.
      remat, unroll: as `nn.towers.towers` has them.
    """

    cross_view: bool = True
    remat: str = "none"
    unroll: int = 1

    def setup(self):
        super().setup()
        options = {"cross_view": self.cross_view, "remat": self.remat, "unroll": self.unroll, "dtype": self.dtype}
        self.blocks = towers(self.sizes.layers, self.sizes.axes, None, **options)

    def __call__(
        self,
        noisy: Float[Array, "B F V h w C"],
        time: Float[Array, "B S"],
        text: Float[Array, "B S L text_embed"],
        *,
        text_mask: Bool[Array, "B S L"],
        view_mask: Bool[Array, "B F V"],
        observed: Float[Array, "B F V h w C"],
        observed_mask: Bool[Array, "B F"],
        segment_ids: Int[Array, "B F"] | None = None,
        frame_positions: Int[Array, "B F"] | None = None,
        guides: Float[Array, "B F V h w guides"] | None = None,
        visible: Bool[Array, "B F q k"] | None = None,
    ) -> VideoOutput:
        """The head's prediction and every block's output. What a mask excludes has no influence on what is real.

        Args:
          noisy: z_t = (1 - t) z_0 + t eps.
          time: t of every event, 0 (clean) to 1 (noise).
          text: caption features; an event whose `text_mask` is all False has no caption.
          view_mask: which frames are there, in which views. A slot without any view is padding.
          observed: clean latents of the slots of `observed_mask`, which replace `noisy` there; not read elsewhere.
          segment_ids: the event of every slot, from 1, 0 for padding, in a row that holds several. None: every row
            is one event (S = 1).
          frame_positions: the latent frame's index in its event. None: 0 to F - 1.
          guides: further channels on the grid of the latents, if the sizes say so.
          visible: pairs of patches of one slot, q = k = V n, view-major, that may attend across views
            (`nn.masks.sight_cone_mask`; training only). None: all.

        Raises:
          InputError: cells that the patch does not divide, more views than the view table has, or channels that are
            not those of the sizes; None for `segment_ids` where S is not 1.
        """
        ids = one_event(view_mask.any(-1), time.shape[-1]) if segment_ids is None else segment_ids
        steps = jnp.broadcast_to(jnp.arange(noisy.shape[1]), noisy.shape[:2])
        at = steps if frame_positions is None else frame_positions
        slots = Slots(ids, at, observed_mask, view_mask & (ids > 0)[..., None])
        noisy = jnp.where(observed_mask[:, :, None, None, None, None], observed, noisy)
        given = {"text_mask": text_mask, "observed": observed, "slots": slots, "guides": guides, "visible": visible}
        start = self.begin(noisy, time, text, **given)
        (tokens, _), features = self.blocks((start.tokens, None), None, start.context, None)
        grid = grid_of(*noisy.shape[3:5], self.sizes.patch)
        return VideoOutput(self.finish(tokens, start.time, grid), features)


def one_event(real: Bool[Array, "B N"], segments: int) -> Int[Array, "B N"]:
    """Segment ids of rows that hold one event each; raises InputError where `segments` says that they hold more."""
    if segments != 1:
        raise InputError("segment_ids", None, f"the event of every slot: there are {segments} events a row")
    return real.astype(jnp.int32)
