"""Both towers' blocks as one stack: one `nn.scan` over one (perhaps rematerialised) block.

Video-only, action-only on cached features and joint passes read the same parameters `{video, action}`. `VideoDiT` and
`ActionDiT` own such a stack with one of the two halves.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from wallwm_jax.nn.action_block import ActionBlock, ActionContext
from wallwm_jax.nn.activations import lay_out
from wallwm_jax.nn.remat import rematerialised
from wallwm_jax.nn.video_block import VideoBlock, VideoContext

VIDEO_TOKENS, ACTION_TOKENS = "rows slots views patches embed", "rows draws steps action_embed"
"""The axes of both residual streams (`nn.activations`)."""


class TowerBlock(nn.Module):
    """Block i of the video tower and the action block that reads its output: pi(i) = i in WALL-WM eq. 9.

    Either half runs when its tokens are given, and exists when its sizes are. The second result, the paired features,
    is returned when there is no action half to consume them at once.
    """

    video_sizes: Mapping[str, int] | None
    action_sizes: Mapping[str, int] | None
    cross_view: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        if self.video_sizes is not None:
            self.video = VideoBlock(self.video_sizes, self.cross_view, self.dtype)
        if self.action_sizes is not None:
            self.action = ActionBlock(self.action_sizes, self.dtype)

    def __call__(
        self,
        tokens: tuple[Float[Array, "B F V n embed"] | None, Float[Array, "B K A action_embed"] | None],
        features: Float[Array, "B F V n embed"] | None,
        video_context: VideoContext | None,
        action_context: ActionContext | None,
    ) -> tuple[tuple[Array | None, Array | None], Array | None]:
        video, action = tokens
        if video is not None:
            video = features = lay_out(self.video(lay_out(video, VIDEO_TOKENS), video_context), VIDEO_TOKENS)
        if action is None:
            return (video, None), features
        action = self.action(lay_out(action, ACTION_TOKENS), features, action_context)
        return (video, lay_out(action, ACTION_TOKENS)), None


def towers(
    layers: int,
    video_sizes: Mapping[str, int] | None,
    action_sizes: Mapping[str, int] | None,
    *,
    cross_view: bool = True,
    remat: str = "none",
    unroll: int = 1,
    dtype: Any = jnp.float32,
) -> nn.Module:
    """The stack of `layers` blocks, called as `TowerBlock` with features stacked on a leading axis.

    `remat` names what of a block the backward pass computes again (`nn.remat.REMATS`); `unroll` is the number of layers
    a scan iteration. Raises InputError for an unknown remat.
    """
    stack = nn.scan(
        rematerialised(TowerBlock, remat),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=layers,
        unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return stack(video_sizes, action_sizes, cross_view, dtype)
