"""Sizes of the world action model: a size is a row of `VARIANTS`."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from wallwm_jax.core.config import check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.action_dit import ActionDiTSizes
from wallwm_jax.nn.guidance.guidance import GuidanceSizes
from wallwm_jax.nn.text_encoder import TextEncoderSizes
from wallwm_jax.nn.video_codec import HaarCodec, VideoCodec
from wallwm_jax.nn.video_dit import VideoDiTSizes

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One size. Widths are multiples of their head counts; a head's width is even.

    The six flags are the parts of the guidance (`nn.guidance`), which is this library's and not the paper's; without
    one of them its parameters do not exist.

    Attributes:
      codec: frames <-> latents; None where an external codec gives `channels` latents.
      channels: latent channels C.
      cells: latent cells h = w of the pictures that the size is made for. Others work as well, if the patch divides
        their cells; the duration head learns places for these and interpolates them for others.
      patch: patch side in latent cells.
      reader: channels of the convolutions by which captions read keyframes, each of stride 2; none: neither keyframe
        reader nor waypoints.
      arms: whose waypoints a reader tells (0 left, 1 right).
      reads: places that a caption asks for in every view.
      keyframe_reader: whether actions are told where the caption's things are.
      waypoints: whether the video is told where the end effectors will be.
      painter: whether it is given a first picture, made by the waypoints; there is none without them.
      duration: whether a head predicts an event's control steps; without it event mode must be given them.
      patch_place: whether actions are told where in the image each patch of the video features is.
      clock: whether actions, and the video features that they read, are told the seconds since the anchor.
      prediction: what the video head predicts: "velocity", or "clean" latents (what is gone from the keyframe, and what
        came).
      action_prediction: the same for actions: "velocity" or "clean".
      min_time: least t by which a clean prediction is divided.
      max_latent_frames: the farthest latent frame from the anchor that E_tau has a row for.
      reach: nearest and farthest distance of sight cones, metres.
    """

    layers: int
    embed: int
    heads: int
    mlp: int
    action_embed: int
    action_heads: int
    action_mlp: int
    text_layers: int
    text_embed: int
    text_heads: int
    text_mlp: int
    vocabulary: int
    duration_embed: int
    channels: int
    cells: int
    patch: int = 2
    reader: tuple[int, ...] = ()
    arms: tuple[int, ...] = (0, 1)
    reads: int = 4
    keyframe_reader: bool = True
    waypoints: bool = True
    painter: bool = True
    duration: bool = True
    patch_place: bool = True
    clock: bool = True
    codec: VideoCodec | None = None
    prediction: str = "velocity"
    action_prediction: str = "velocity"
    min_time: float = 0.05
    frequency: int = 256
    relative: int = 32
    max_latent_frames: int = 65
    reach: tuple[float, float] = (0.05, 3.0)

    def __post_init__(self):
        for field in ("prediction", "action_prediction"):
            if getattr(self, field) not in ("velocity", "clean"):
                raise InputError(f"variant.{field}", getattr(self, field), "'velocity' or 'clean'")
        for width, heads in (("embed", "heads"), ("action_embed", "action_heads"), ("text_embed", "text_heads")):
            if getattr(self, width) % (2 * getattr(self, heads)):
                expected = f"a multiple of 2 x {getattr(self, heads)} heads"
                raise InputError(f"variant.{width}", getattr(self, width), expected)
        if self.reader and self.codec is None:
            raise InputError("variant.reader", self.reader, "none without a codec: it needs frames")
        if not self.arms or not set(self.arms) <= {0, 1}:
            raise InputError("variant.arms", self.arms, "0 (left), 1 (right) or both")
        if self.codec is not None and self.codec.channels != self.channels:
            raise InputError("variant.channels", self.channels, f"the codec's {self.codec.channels}")
        if self.cells % self.patch:
            raise InputError("variant.cells", self.cells, f"a multiple of the patch, {self.patch}")

    def video_sizes(self, views: int) -> VideoDiTSizes:
        """The video tower's, with a view table of `views` rows."""
        guidance = self.guidance_sizes(views)
        maps = len(self.arms) * self.codec.group if guidance.waypoints else 0
        return VideoDiTSizes(
            layers=self.layers,
            embed=self.embed,
            heads=self.heads,
            mlp=self.mlp,
            channels=self.channels,
            text_embed=self.text_embed,
            views=views,
            patch=self.patch,
            frequency=self.frequency,
            # Beside clean latents, how much of the anchor's cell is gone.
            predicted=self.channels + (self.prediction == "clean"),
            guides=maps + (self.channels if guidance.painter else 0),
        )

    @property
    def action_sizes(self) -> ActionDiTSizes:
        """The action tower's."""
        return ActionDiTSizes(
            layers=self.layers,
            embed=self.action_embed,
            heads=self.action_heads,
            mlp=self.action_mlp,
            video_embed=self.embed,
            max_latent_frames=self.max_latent_frames,
            frequency=self.frequency,
        )

    def guidance_sizes(self, views: int) -> GuidanceSizes:
        """The guidance's, with view tables of `views` rows."""
        waypoints = self.waypoints and bool(self.reader)
        return GuidanceSizes(
            keyframe_reader=self.keyframe_reader and bool(self.reader),
            waypoints=waypoints,
            painter=self.painter and waypoints,
            duration=self.duration,
            patch_place=self.patch_place,
            clock=self.clock,
            embed=self.embed,
            action_embed=self.action_embed,
            text_embed=self.text_embed,
            channels=self.channels,
            views=views,
            patch=self.patch,
            grid=(self.cells // self.patch,) * 2,
            reader=self.reader,
            reads=self.reads,
            arms=self.arms,
            duration_embed=self.duration_embed,
            frequency=self.frequency,
        )

    @property
    def text(self) -> TextEncoderSizes:
        """Sizes of the text encoder."""
        return TextEncoderSizes(
            layers=self.text_layers,
            embed=self.text_embed,
            heads=self.text_heads,
            mlp=self.text_mlp,
            vocabulary=self.vocabulary,
            buckets=self.relative,
        )


_TINY_CODEC = HaarCodec(kept_spatial=16, kept_temporal=2, gain=4.0)
_MICRO_CODEC = HaarCodec(spatial_levels=2, kept_spatial=4, kept_temporal=2)
_WAN_2_2_CODEC = HaarCodec(spatial_levels=4, kept_spatial=4, kept_temporal=4)
"""Has the compression (16 x 16 x 4) and the channels (48) of Wan2.2's pretrained VAE, in whose place it stands.
Wan2.1's 16 channels are no multiple of three colours: its rows have no codec."""

VARIANTS: Mapping[str, Variant] = {
    "micro": Variant(
        layers=2, embed=32, heads=2, mlp=64, action_embed=24, action_heads=2, action_mlp=48,
        text_layers=1, text_embed=16, text_heads=2, text_mlp=32, vocabulary=259, duration_embed=16,
        channels=24, cells=4, reader=(8, 12), codec=_MICRO_CODEC, prediction="clean", frequency=16, max_latent_frames=8,
    ),
    "tiny": Variant(
        layers=4, embed=192, heads=4, mlp=768, action_embed=128, action_heads=4, action_mlp=320,
        text_layers=2, text_embed=128, text_heads=4, text_mlp=256, vocabulary=259, duration_embed=64,
        channels=96, cells=12, patch=3, reader=(16, 32, 64), arms=(1,), codec=_TINY_CODEC, prediction="clean",
        frequency=128, max_latent_frames=16,
    ),
    "wan2.1-1.3b": Variant(
        layers=30, embed=1536, heads=12, mlp=8960, action_embed=768, action_heads=12, action_mlp=2048,
        text_layers=24, text_embed=4096, text_heads=64, text_mlp=10240, vocabulary=256384, duration_embed=512,
        channels=16, cells=32,
    ),
    "wan2.2-5b": Variant(
        layers=30, embed=3072, heads=24, mlp=14336, action_embed=1024, action_heads=16, action_mlp=2816,
        text_layers=24, text_embed=4096, text_heads=64, text_mlp=10240, vocabulary=256384, duration_embed=512,
        channels=48, cells=16, codec=_WAN_2_2_CODEC,
    ),
    "wan2.1-14b": Variant(
        layers=40, embed=5120, heads=40, mlp=13824, action_embed=1536, action_heads=24, action_mlp=4224,
        text_layers=24, text_embed=4096, text_heads=64, text_mlp=10240, vocabulary=256384, duration_embed=512,
        channels=16, cells=32,
    ),
}  # fmt: skip
"""The Wan rows have the published dimensions of the video tower and of UMT5-XXL, which encodes their captions; the
action tower's and the duration head's are ours."""


def variant(name: str, overrides: Mapping[str, object] | None = None) -> Variant:
    """The row `name` with some fields replaced; raises InputError for an unknown row or field."""
    return row_of(VARIANTS, "model", name, overrides)


def row_of(rows: Mapping[str, Row], section: str, name: str, overrides: Mapping[str, object] | None = None) -> Row:
    """The row `name` of a table of sizes with some fields replaced; `section` is the config's that names it.

    Raises InputError for an unknown row or field.
    """
    if name not in rows:
        raise InputError(f"{section}.variant", repr(name), f"one of {sorted(rows)}")
    check_keys(overrides or {}, [field.name for field in dataclasses.fields(rows[name])], f"{section}.overrides")
    return dataclasses.replace(rows[name], **overrides or {})
