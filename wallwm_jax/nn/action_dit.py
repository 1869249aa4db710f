"""The action diffusion transformer, coupled one way to the video tower's features (WALL-WM section 4, eqs. 9-11).

`ActionDiT` is the whole network on plain arrays, cached features among them. `ActionTower` is the part of it around
the blocks, for a model that runs these blocks in one scan with those of the video tower (`nn.towers`).
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import UNIFIED_DIMENSION
from wallwm_jax.nn import masks, positions
from wallwm_jax.nn.action_block import ACTION_MODULATIONS, ActionContext
from wallwm_jax.nn.activations import joined
from wallwm_jax.nn.attention import attention_mask
from wallwm_jax.nn.layers import Linear, TimeModulation, gather_segments, modulate
from wallwm_jax.nn.parameters import normal, parameter, zeros
from wallwm_jax.nn.towers import towers
from wallwm_jax.nn.video_dit import one_event


@dataclasses.dataclass(frozen=True)
class ActionDiTSizes:
    """Sizes of an action tower.

    Attributes:
      layers: blocks, as many as the video tower has.
      embed: width of a token; a multiple of 2 x heads.
      mlp: hidden width of the gated feed-forward networks.
      video_embed: width of the video features.
      dof: degrees of freedom of an action and of a state.
      max_latent_frames: the farthest latent frame from the anchor that E_tau has a row for.
      frequency: sines and cosines of the diffusion time.
    """

    layers: int
    embed: int
    heads: int
    mlp: int
    video_embed: int
    dof: int = UNIFIED_DIMENSION
    max_latent_frames: int = 65
    frequency: int = 256

    def __post_init__(self):
        if self.embed % (2 * self.heads):
            raise InputError("ActionDiTSizes.embed", self.embed, f"a multiple of 2 x {self.heads} heads")

    @property
    def axes(self) -> dict[str, int]:
        """Sizes of the axes that the tower's parameters declare."""
        return {
            "action_embed": self.embed,
            "heads": self.heads,
            "head_dim": self.embed // self.heads,
            "mlp": self.mlp,
            "embed": self.video_embed,
            "dof": self.dof,
            "position": self.max_latent_frames + 1,
            "frequency": self.frequency,
            "modulation": ACTION_MODULATIONS,
        }


class ActionSlots(NamedTuple):
    """The action steps of packed rows."""

    segment_ids: Int[Array, "B A"]
    """The event of a step, from 1; 0 for padding."""
    positions: Int[Array, "B A"]
    """The step's index in its event."""
    frames: Int[Array, "B A"]
    """tau: the latent frame that the step lies in, counted from the anchor."""


class VideoSlots(NamedTuple):
    """The latent slots whose features the actions read."""

    segment_ids: Int[Array, "B F"]
    frames: Int[Array, "B F"]
    """tau: the latent frame, counted from the anchor; negative in the history."""
    views: Bool[Array, "B F V"]
    """Views that real slots have."""


class ActionGuides(NamedTuple):
    """What may be added from outside (`nn.guidance`); the paper's model has none of it."""

    state: Float[Array, "B S embed"] | None = None
    """To the state token."""
    steps: Float[Array, "B A embed"] | None = None
    """To every action token."""
    slots: Float[Array, "B F video_embed"] | None = None
    """To the features of every latent slot, as E_tau is."""
    patches: Float[Array, "V n video_embed"] | None = None
    """To the features of every patch, as E_tau is."""


class ActionPass(NamedTuple):
    """A forward pass between the action embedding and the blocks."""

    tokens: Float[Array, "B K A embed"]
    context: ActionContext
    time: Float[Array, "B K A embed"]
    """Each token's time embedding, for the head."""


class ActionTower(nn.Module):
    """What surrounds the action blocks: action, state, time and position embeddings, and the head."""

    sizes: ActionDiTSizes
    dtype: Any = jnp.float32

    def setup(self):
        row, sizes = self.sizes, self.sizes.axes
        masked = {**sizes, "dof": 2 * row.dof}
        self.input = Linear("dof -> action_embed @adamw", masked, dtype=self.dtype)
        self.state = Linear("dof -> action_embed @adamw", masked, dtype=self.dtype)
        self.time = TimeModulation("action_embed", sizes)
        self.frame = parameter(self, "frame", "[position] action_embed", sizes, normal(0.02))
        self.video_frame = parameter(self, "video_frame", "[position] embed", sizes, normal(0.02))
        self.head_modulation = parameter(
            self, "head_modulation", "[modulation] action_embed", {**sizes, "modulation": 2}, normal(row.embed**-0.5)
        )
        self.head = Linear("action_embed -> dof @adamw", sizes, zeros)

    def begin(
        self,
        noisy: Float[Array, "B K A dof"],
        time: Float[Array, "B K S"],
        *,
        state: Float[Array, "B S dof"],
        dof_mask: Bool[Array, "B S dof"],
        actions: ActionSlots,
        video: VideoSlots,
        patches: int,
        guides: ActionGuides,
    ) -> ActionPass:
        """Tokens and what all blocks read; arguments as those of `ActionDiT`. `patches` are tokens of a view."""
        draws, ids, longest = noisy.shape[1], actions.segment_ids, self.sizes.max_latent_frames
        pairs = self.sizes.embed // self.sizes.heads // 2
        embedding, modulation = self._modulations(time, ids)
        angles = jnp.repeat(positions.axis_angles(actions.positions, pairs), draws, axis=0)
        angles = angles.reshape(*joined(len(noisy), draws), -1, pairs)
        within = attention_mask(masks.same_segment(ids, ids, ids > 0))
        across = masks.coupling_mask(ids, video.segment_ids, video.views, patches)
        context = ActionContext(
            modulation=modulation,
            rotation=positions.rotation(angles),
            mask=masks.repeat_batch(within, draws),
            state=_plus(self._embed_state(state, dof_mask), guides.state),
            segments=ids,
            video_position=self._video_positions(positions.tau_rows(video.frames, longest), guides),
            video_mask=masks.repeat_queries(across, draws),
        )
        position = _plus(self.frame[positions.tau_rows(actions.frames, longest)], guides.steps)
        tokens = self._embed(noisy, gather_segments(dof_mask, ids)) + position[:, None]
        return ActionPass(tokens.astype(self.dtype), context, embedding)

    def finish(self, x: Float[Array, "B K A embed"], time: Float[Array, "B K A embed"]) -> Float[Array, "B K A dof"]:
        """The head: AdaLN and a linear map that starts at zero; fp32."""
        shift, scale = (time + row for row in self.head_modulation)
        return self.head(modulate(x, shift, scale))

    def _embed(self, noisy: Float[Array, "B K A dof"], dof_mask: Bool[Array, "B A dof"]) -> Array:
        """Action tokens without positions; masked degrees of freedom are blanked."""
        shown = jnp.broadcast_to(dof_mask[:, None], noisy.shape)
        return self.input(jnp.concatenate([jnp.where(shown, noisy, 0.0), shown.astype(noisy.dtype)], -1))

    def _embed_state(self, state: Float[Array, "B S dof"], dof_mask: Bool[Array, "B S dof"]) -> Array:
        """The state tokens, at the anchor."""
        inputs = jnp.concatenate([jnp.where(dof_mask, state, 0.0), dof_mask.astype(state.dtype)], -1)
        return self.state(inputs) + self.frame[0]

    def _video_positions(self, rows: Int[Array, "B F"], guides: ActionGuides) -> Float[Array, "B F #V #n video_embed"]:
        """E_tau of the video tokens, and what guides add.

        DECIDE: E_abs, which says which chunk of a sliding window is the current one, has no table: a window that is
        cut around its anchor has but one chunk, and the constant would be a part of E_tau's rows.
        """
        moment = _plus(self.video_frame[rows], guides.slots)
        return _plus(moment[:, :, None, None], guides.patches)

    def _modulations(self, time: Float[Array, "B K S"], segments: Int[Array, "B A"]) -> tuple[Array, Array]:
        """Each action token's time embedding `[B K A embed]` and AdaLN numbers `[B K A modulation embed]`; fp32."""
        rows, draws, _ = time.shape
        ids = jnp.repeat(segments, draws, axis=0)
        parts = self.time(time.reshape(rows * draws, -1))
        return tuple(gather_segments(part, ids).reshape(rows, draws, -1, *part.shape[2:]) for part in parts)


class ActionDiT(ActionTower):
    """The action diffusion transformer, on plain arrays.

    Letters: B rows, K noise draws that share state and features, A action steps, S events a row, F latent frames
    (slots), V views, n tokens of a view.

        dit = ActionDiT(sizes=ActionDiTSizes(layers=2, embed=24, heads=2, mlp=48, video_embed=32, dof=7))
        given = {"state": state, "dof_mask": dof_mask, "action_mask": action_mask, "view_mask": view_mask}
        given["action_frames"] = 1 + jnp.arange(16)[None] // 8  # eight control steps a latent frame
        variables = nn.meta.unbox(dit.init(key, noisy, time, features, **given))
        velocity = dit.apply(variables, noisy, time, features, **given)

    Attributes:
      sizes: widths and counts.
      dtype: of the matrix products; parameters, norms, softmax and outputs are fp32.
      remat, unroll: as `nn.towers.towers` has them.
    """

    remat: str = "none"
    unroll: int = 1

    def setup(self):
        super().setup()
        options = {"remat": self.remat, "unroll": self.unroll, "dtype": self.dtype}
        self.blocks = towers(self.sizes.layers, None, self.sizes.axes, **options)

    def __call__(
        self,
        noisy: Float[Array, "B K A dof"],
        time: Float[Array, "B K S"],
        features: Float[Array, "layers B F V n video_embed"],
        *,
        state: Float[Array, "B S dof"],
        dof_mask: Bool[Array, "B S dof"],
        action_mask: Bool[Array, "B A"],
        view_mask: Bool[Array, "B F V"],
        action_frames: Int[Array, "B A"],
        video_frames: Int[Array, "B F"] | None = None,
        action_segment_ids: Int[Array, "B A"] | None = None,
        action_positions: Int[Array, "B A"] | None = None,
        segment_ids: Int[Array, "B F"] | None = None,
        guides: ActionGuides = ActionGuides(),  # noqa: B008 (a tuple of constants)
    ) -> Float[Array, "B K A dof"]:
        """The head's prediction, fp32: a velocity unless the caller trains it to be something else. It is 0 in masked
        steps and degrees of freedom, and what a mask excludes has no influence on what is real.

        Args:
          noisy: z_t = (1 - t) z_0 + t eps of the actions.
          time: t of every draw and event, 0 (clean) to 1 (noise).
          features: every video block's output, as `VideoDiT` returns them.
          state: at the anchor.
          view_mask: which frames are there, in which views.
          action_frames: tau of every step (eq. 10), floor(k / K_p) + 1 for step k and K_p steps a latent frame.
          video_frames: tau of every slot. None: 0 to F - 1, the anchor first.
          action_segment_ids, segment_ids: the event of every step and slot, from 1, 0 for padding, in rows that hold
            several events. None: every row is one event (S = 1).
          action_positions: the step's index in its event. None: 0 to A - 1.
          guides: what to add to state token, action tokens and features.

        Raises:
          InputError: features of another number of layers; more latent frames than E_tau has rows for, where
            `video_frames` is None; None for segment ids where S is not 1.
        """
        rows, frames, longest = noisy.shape[0], features.shape[2], self.sizes.max_latent_frames
        if len(features) != self.sizes.layers:
            raise InputError("layers of the features", len(features), self.sizes.layers)
        if video_frames is None and frames > longest + 1:
            raise InputError("latent frames", frames, f"at most {longest + 1}, the rows of E_tau")
        segments, steps = time.shape[-1], jnp.broadcast_to(jnp.arange(noisy.shape[2]), (rows, noisy.shape[2]))
        ids = one_event(view_mask.any(-1), segments) if segment_ids is None else segment_ids
        own = one_event(action_mask, segments) if action_segment_ids is None else action_segment_ids
        own = jnp.where(action_mask, own, 0)
        tau = jnp.broadcast_to(jnp.arange(frames), (rows, frames)) if video_frames is None else video_frames
        actions = ActionSlots(own, steps if action_positions is None else action_positions, action_frames)
        video = VideoSlots(ids, tau, view_mask & (ids > 0)[..., None])
        given = {"state": state, "dof_mask": dof_mask, "patches": features.shape[4], "guides": guides}
        start = self.begin(noisy, time, actions=actions, video=video, **given)
        (_, tokens), _ = self.blocks((None, start.tokens), features, None, start.context)
        return jnp.where(gather_segments(dof_mask, own)[:, None], self.finish(tokens, start.time), 0.0)


def _plus(x: Array, added: Array | None) -> Array:
    return x if added is None else x + added
