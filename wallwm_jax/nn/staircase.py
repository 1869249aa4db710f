"""Staircase decoding: K continuous reasoning states from one pass above a relay depth (WALL-WM eqs. 16-17).

The frozen trunk reads the prompt once. One more token, the relay, runs through its layers below the relay depth N_r;
from its state all K latents start, each with its own slot embedding. Above N_r a branch with its own weights carries
them on: in layer i a latent attends to the trunk's keys and values of layer i at the prompt, and to latents up to its
own. Nothing is sampled, so that gradients flow from whatever reads the latents into the branch.

Decided, where the paper leaves it open: "one tick behind" means that latent k in layer i sees latents <= k of the same
layer i. Evaluated tick by tick (latent k in layer i at tick k + i) this takes L - N_r + K - 1 ticks; it is the same
graph as one causal pass over K tokens, which is how it is evaluated here.

`serial` and `independent` are the schedules the paper compares with, on the same parameters.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.attention import attention_mask
from wallwm_jax.nn.language import (
    BlockContext,
    KeyValues,
    LanguageBlock,
    LanguageSizes,
    causal_context,
    depth_slice,
    empty_key_values,
    language_stack,
    multimodal_rotation,
    run_blocks,
)
from wallwm_jax.nn.layers import RMSNorm
from wallwm_jax.nn.parameters import normal, parameter
from wallwm_jax.nn.vision_language import TrunkFeatures, text_positions

SCHEDULES = ("staircase", "serial", "independent")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StaircaseSizes:
    """Sizes of a branch.

    Attributes:
      trunk: the trunk's, of depth L; the branch has its widths and options.
      relay_depth: N_r, from 1 to L - 1.
      latents: K.

    Raises:
      InputError: a relay depth outside the trunk, no latents.
    """

    trunk: LanguageSizes
    relay_depth: int
    latents: int

    def __post_init__(self):
        if not 0 < self.relay_depth < self.trunk.layers:
            expected = f"1 to {self.trunk.layers - 1}, for {self.trunk.layers} layers"
            raise InputError("relay_depth", self.relay_depth, expected)
        if self.latents < 1:
            raise InputError("latents", self.latents, "at least 1")


class Staircase(nn.Module):
    """The Mixture-of-Transformers branch above the relay depth.

    On prompt embeddings of any origin and the parameters of a stack of `LanguageBlock`s, here a trunk's own:

        sizes = VisionLanguageSizes(layers=4, embed=32, heads=4, key_heads=2, mlp=64, vocabulary=259)
        trunk = VisionLanguageTrunk(sizes=sizes)
        branch = Staircase(sizes=StaircaseSizes(trunk=sizes, relay_depth=2, latents=3))
        text, mask = jnp.array([[5, 6, 7], [8, 9, 0]]), jnp.array([[1, 1, 1], [1, 1, 0]], bool)
        blocks = unbox(trunk.init(jax.random.key(0), None, None, text, mask))["params"]["blocks"]
        prompt = jax.random.normal(jax.random.key(1), (2, 3, 32))
        variables = unbox(branch.init(jax.random.key(2), prompt, mask, blocks))
        latents = branch.apply(variables, prompt, mask, blocks)  # [2, 3, 32]

    After a trunk's `read`, `think` takes what that has computed already.
    """

    sizes: StaircaseSizes
    dtype: Any = jnp.float32

    def setup(self):
        trunk = self.sizes.trunk
        axes = trunk.axes | {"latent": self.sizes.latents}
        self.relay = parameter(self, "relay", "language_embed", axes, normal(0.02))
        self.slots = parameter(self, "slots", "[latent] language_embed", axes, normal(0.02))
        self.branch = language_stack(trunk, self.dtype, trunk.layers - self.sizes.relay_depth)
        self.norm = RMSNorm("language_embed", axes, trunk.epsilon)

    def __call__(
        self,
        prompt: Float[Array, "B P language_embed"],
        prompt_mask: Bool[Array, "B P"],
        trunk_blocks: Any,
        positions: Int[Array, "B P 3"] | None = None,
        schedule: str = "staircase",
    ) -> Float[Array, "B K language_embed"]:
        """The latents y_1..y_K, normed, fp32, from a prompt that the trunk's blocks read first.

        Args:
            prompt: embeddings before the trunk's first block; anything where the mask is False.
            prompt_mask: True on real tokens.
            trunk_blocks: the parameters of the trunk's stack, plain arrays with a leading axis of layers.
            positions: time, row and column; None: the real tokens are counted, as in text.
            schedule: as for `think`.

        Raises:
            InputError: an unknown schedule.
        """
        positions = text_positions(prompt_mask) if positions is None else positions
        trunk, (batch, length) = self.sizes.trunk, prompt_mask.shape
        stored = empty_key_values(trunk, batch, length, self.dtype)
        context = causal_context(positions, trunk, prompt_mask, 0)
        # Slots that are no tokens are seen by nobody, but must not carry numbers that overflow through the blocks.
        prompt = jnp.where(prompt_mask[..., None], prompt, 0.0).astype(self.dtype)
        _, memory = run_blocks(trunk_blocks, prompt, stored, context, trunk, self.dtype)
        last = jnp.max(jnp.where(prompt_mask[..., None], positions, -1), axis=(1, 2))
        return self.think(TrunkFeatures(prompt[None], memory, prompt_mask, last + 1), trunk_blocks, schedule)

    def think(
        self, features: TrunkFeatures, trunk_blocks: Any, schedule: str = "staircase"
    ) -> Float[Array, "B K language_embed"]:
        """The latents y_1..y_K, normed, fp32, from what the trunk has read.

        Args:
            features: the trunk's of the prompt alone (`room` 0).
            trunk_blocks: the parameters of the trunk's stack.
            schedule: "staircase"; "serial": each latent runs the whole depth after the one before it has finished, and
                starts from what that ended with; "independent": as the staircase, but no latent sees another.

        Raises:
            InputError: an unknown schedule.
        """
        if schedule not in SCHEDULES:
            raise InputError("schedule", repr(schedule), f"one of {SCHEDULES}")
        if schedule == "serial":
            return self.norm(self._serial(features, trunk_blocks))
        relay = self._relay_state(features, trunk_blocks)
        start = relay + self.slots[None].astype(self.dtype)
        upper = depth_slice(features.memory, self.sizes.relay_depth, self.sizes.trunk.layers)
        stored = _with_room(upper, self.sizes.latents)
        latents, _ = self.branch(start, stored, self._context(features, schedule))
        return self.norm(latents)

    def _relay_state(self, features: TrunkFeatures, trunk_blocks: Any) -> Float[Array, "B 1 language_embed"]:
        batch, prompt = features.mask.shape
        token = jnp.broadcast_to(self.relay, (batch, 1, len(self.relay))).astype(self.dtype)
        stored = _with_room(depth_slice(features.memory, 0, self.sizes.relay_depth), 1)
        allowed = jnp.pad(features.mask, ((0, 0), (0, 1)), constant_values=True)[:, None]
        context = BlockContext(self._turn(features, 0, 1), attention_mask(allowed), jnp.asarray(prompt, jnp.int32))
        return self._lower(trunk_blocks, token, stored, context)[0]

    def _lower(self, trunk_blocks: Any, x: Array, stored: KeyValues, context: BlockContext) -> tuple[Array, KeyValues]:
        """The trunk's layers below the relay depth, with the trunk's own weights."""
        lower = depth_slice(trunk_blocks, 0, self.sizes.relay_depth)
        return run_blocks(lower, x, stored, context, self.sizes.trunk, self.dtype)

    def _turn(self, features: TrunkFeatures, first: int | Array, count: int):
        places = features.next_position[:, None] + first + jnp.arange(count)
        trunk = self.sizes.trunk
        return multimodal_rotation(jnp.repeat(places[..., None], 3, -1), trunk.sections, trunk.rope_base)

    def _context(self, features: TrunkFeatures, schedule: str) -> BlockContext:
        latents, prompt = self.sizes.latents, features.mask.shape[1]
        mask = latent_mask(features.mask, latents, schedule == "independent")
        return BlockContext(self._turn(features, 0, latents), attention_mask(mask), jnp.asarray(prompt, jnp.int32))

    def _serial(self, features: TrunkFeatures, trunk_blocks: Any) -> Float[Array, "B K language_embed"]:
        batch, prompt = features.mask.shape
        latents, depth = self.sizes.latents, self.sizes.relay_depth
        memory = _with_room(features.memory, latents)
        lower, upper = depth_slice(memory, 0, depth), depth_slice(memory, depth, self.sizes.trunk.layers)
        allowed = latent_mask(features.mask, latents, False)
        previous = jnp.zeros((batch, 1, self.relay.shape[-1]), self.dtype)

        def tick(module, carry, number):
            previous, lower, upper = carry
            slot = jax.lax.dynamic_slice_in_dim(module.slots, number, 1)
            x = (module.relay + slot[None]).astype(module.dtype) + previous
            row = jax.lax.dynamic_slice_in_dim(allowed, number, 1, axis=1)
            context = BlockContext(module._turn(features, number, 1), attention_mask(row), prompt + number)
            x, lower = module._lower(trunk_blocks, x, lower, context)
            x, (upper, _) = module.branch(x, upper, context)
            return (x, lower, upper), x[:, 0]

        scan = nn.scan(tick, variable_broadcast="params", split_rngs={"params": False}, out_axes=1)
        return scan(self, (previous, lower, upper), jnp.arange(latents))[1]


def block_flops(sizes: LanguageSizes, tokens: int, slots: int) -> int:
    """Floating-point operations of one block's matrix products for `tokens` tokens that look at `slots` slots:
    tokens (2 E (H + 2 G) D + 2 H D E + 6 E F + 4 slots H D), with width E, H heads and G key heads of D, and mlp F."""
    width, heads, head = sizes.embed, sizes.heads, sizes.head_dim
    projections = 2 * width * (heads + 2 * sizes.key_heads) * head + 2 * heads * head * width
    return tokens * (projections + 6 * width * sizes.mlp + 4 * slots * heads * head)


def staircase_flops(sizes: StaircaseSizes, prompt: int, schedule: str = "staircase") -> int:
    """Operations of a row's K latents after a prompt of that many slots, the prompt's own pass not counted.

    The staircase and the independent schedule: N_r blocks of one token and L - N_r blocks of K tokens; `serial`: L
    blocks of one token, K times. A block's keys and values have room for all K latents from the start.
    """
    trunk, latents, below = sizes.trunk, sizes.latents, sizes.relay_depth
    slots, above = prompt + latents, trunk.layers - below
    if schedule == "serial":
        return latents * trunk.layers * block_flops(trunk, 1, slots)
    return below * block_flops(trunk, 1, prompt + 1) + above * block_flops(trunk, latents, slots)


def latent_mask(prompt: Bool[Array, "B P"], latents: int, independent: bool) -> Bool[Array, "B K slots"]:
    """Latent k sees the real prompt and latents up to k, or itself alone."""
    order = jnp.arange(latents)
    among = order[:, None] == order if independent else order[:, None] >= order
    batch, length = prompt.shape
    before = jnp.broadcast_to(prompt[:, None], (batch, latents, length))
    return jnp.concatenate([before, jnp.broadcast_to(among, (batch, latents, latents))], -1)


def _with_room(memory: KeyValues, slots: int) -> KeyValues:
    return jax.tree.map(lambda part: jnp.pad(part, ((0, 0), (0, 0), (0, slots), (0, 0), (0, 0))), memory)


def wavefront(
    module: Staircase, branch: Any, start: Float[Array, "B K language_embed"], features: TrunkFeatures
) -> Float[Array, "B K language_embed"]:
    """The staircase evaluated tick by tick: at tick t every latent k goes through layer t - k, where that exists.

    The reference that the parallel pass must equal; `branch` are the parameters of its stack. Not normed.
    """
    trunk, below, latents = module.sizes.trunk, module.sizes.relay_depth, module.sizes.latents
    depth = trunk.layers - below
    stored = _with_room(depth_slice(features.memory, below, trunk.layers), latents)
    allowed = latent_mask(features.mask, latents, False)
    prompt = features.mask.shape[1]
    states = [start[:, k : k + 1] for k in range(latents)]
    layers = [depth_slice(stored, layer, layer + 1) for layer in range(depth)]
    block = LanguageBlock(trunk, module.dtype)
    for time in range(depth + latents - 1):
        for k in range(max(0, time - depth + 1), min(latents, time + 1)):
            layer = time - k
            places = features.next_position[:, None, None] + jnp.full((1, 1, 3), k)
            context = BlockContext(
                multimodal_rotation(places, trunk.sections, trunk.rope_base),
                attention_mask(allowed[:, k : k + 1]),
                jnp.asarray(prompt + k, jnp.int32),
            )
            weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], branch)
            own = jax.tree.map(lambda part: part[0], layers[layer])
            states[k], (own, _) = block.apply({"params": weights}, states[k], own, context)
            layers[layer] = jax.tree.map(lambda part: part[None], own)
    return jnp.concatenate(states, 1)
