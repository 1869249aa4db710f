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

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from wallwm_jax.core.errors import InputError
from wallwm_jax.nn.attention import attention_mask
from wallwm_jax.nn.language import (
    BlockContext,
    KeyValues,
    LanguageBlock,
    depth_slice,
    language_stack,
    multimodal_rotation,
    run_blocks,
)
from wallwm_jax.nn.layers import RMSNorm
from wallwm_jax.nn.parameters import normal, parameter
from wallwm_jax.nn.vision_language import TrunkFeatures

SCHEDULES = ("staircase", "serial", "independent")


class Staircase(nn.Module):
    """The Mixture-of-Transformers branch above the relay depth.

    Attributes:
      layers: depth L of the trunk.
      relay_depth: N_r, from 1 to L - 1.
      latents: K.
      sizes: the trunk's; must give language_embed, heads, key_heads, head_dim, mlp.
      sections: the trunk's.
    """

    layers: int
    relay_depth: int
    latents: int
    sizes: Mapping[str, int]
    sections: Sequence[int]
    dtype: Any = jnp.float32

    def setup(self):
        if not 0 < self.relay_depth < self.layers:
            raise InputError("relay_depth", self.relay_depth, f"1 to {self.layers - 1}, for {self.layers} layers")
        sizes = {**self.sizes, "latent": self.latents}
        self.relay = parameter(self, "relay", "language_embed", sizes, normal(0.02))
        self.slots = parameter(self, "slots", "[latent] language_embed", sizes, normal(0.02))
        self.branch = language_stack(self.layers - self.relay_depth, sizes, self.dtype)
        self.norm = RMSNorm("language_embed", sizes)

    def __call__(
        self, features: TrunkFeatures, trunk_blocks: Any, schedule: str = "staircase"
    ) -> Float[Array, "B K language_embed"]:
        """The latents y_1..y_K, normed, fp32.

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
        stored = _with_room(depth_slice(features.memory, self.relay_depth, self.layers), self.latents)
        latents, _ = self.branch(start, stored, self._context(features, schedule))
        return self.norm(latents)

    def _relay_state(self, features: TrunkFeatures, trunk_blocks: Any) -> Float[Array, "B 1 language_embed"]:
        batch, prompt = features.mask.shape
        token = jnp.broadcast_to(self.relay, (batch, 1, len(self.relay))).astype(self.dtype)
        stored = _with_room(depth_slice(features.memory, 0, self.relay_depth), 1)
        allowed = jnp.pad(features.mask, ((0, 0), (0, 1)), constant_values=True)[:, None]
        context = BlockContext(self._turn(features, 0, 1), attention_mask(allowed), jnp.asarray(prompt, jnp.int32))
        return self._lower(trunk_blocks, token, stored, context)[0]

    def _lower(self, trunk_blocks: Any, x: Array, stored: KeyValues, context: BlockContext) -> tuple[Array, KeyValues]:
        """The trunk's layers below the relay depth, with the trunk's own weights."""
        lower = depth_slice(trunk_blocks, 0, self.relay_depth)
        return run_blocks(lower, x, stored, context, self.sizes, self.dtype)

    def _turn(self, features: TrunkFeatures, first: int | Array, count: int):
        places = features.next_position[:, None] + first + jnp.arange(count)
        return multimodal_rotation(jnp.repeat(places[..., None], 3, -1), self.sections)

    def _context(self, features: TrunkFeatures, schedule: str) -> BlockContext:
        mask = latent_mask(features.mask, self.latents, schedule == "independent")
        prompt = features.mask.shape[1]
        return BlockContext(self._turn(features, 0, self.latents), attention_mask(mask), jnp.asarray(prompt, jnp.int32))

    def _serial(self, features: TrunkFeatures, trunk_blocks: Any) -> Float[Array, "B K language_embed"]:
        batch, prompt = features.mask.shape
        memory = _with_room(features.memory, self.latents)
        lower, upper = (
            depth_slice(memory, first, last) for first, last in ((0, self.relay_depth), (self.relay_depth, self.layers))
        )
        allowed = latent_mask(features.mask, self.latents, False)
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
        _, latents = scan(self, (previous, lower, upper), jnp.arange(self.latents))
        return latents


def block_flops(sizes: Mapping[str, int], tokens: int, slots: int) -> int:
    """Floating-point operations of one block's matrix products for `tokens` tokens that look at `slots` slots:
    tokens (2 E (H + 2 G) D + 2 H D E + 6 E F + 4 slots H D), with width E, H heads and G key heads of D, and mlp F."""
    width, heads, groups = sizes["language_embed"], sizes["heads"], sizes["key_heads"]
    head, hidden = sizes["head_dim"], sizes["mlp"]
    projections = 2 * width * (heads + 2 * groups) * head + 2 * heads * head * width
    return tokens * (projections + 6 * width * hidden + 4 * slots * heads * head)


def staircase_flops(module: Staircase, prompt: int, schedule: str = "staircase") -> int:
    """Operations of a row's K latents after a prompt of that many slots, the prompt's own pass not counted.

    The staircase and the independent schedule: N_r blocks of one token and L - N_r blocks of K tokens; `serial`: L
    blocks of one token, K times. A block's keys and values have room for all K latents from the start.
    """
    latents, below, above = module.latents, module.relay_depth, module.layers - module.relay_depth
    slots = prompt + latents
    if schedule == "serial":
        return latents * module.layers * block_flops(module.sizes, 1, slots)
    return below * block_flops(module.sizes, 1, prompt + 1) + above * block_flops(module.sizes, latents, slots)


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
    depth, latents = module.layers - module.relay_depth, module.latents
    stored = _with_room(depth_slice(features.memory, module.relay_depth, module.layers), latents)
    allowed = latent_mask(features.mask, latents, False)
    prompt = features.mask.shape[1]
    states = [start[:, k : k + 1] for k in range(latents)]
    layers = [depth_slice(stored, layer, layer + 1) for layer in range(depth)]
    block = LanguageBlock(module.sizes, module.dtype)
    for time in range(depth + latents - 1):
        for k in range(max(0, time - depth + 1), min(latents, time + 1)):
            layer = time - k
            places = features.next_position[:, None, None] + jnp.full((1, 1, 3), k)
            context = BlockContext(
                multimodal_rotation(places, module.sections),
                attention_mask(allowed[:, k : k + 1]),
                jnp.asarray(prompt + k, jnp.int32),
            )
            weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], branch)
            own = jax.tree.map(lambda part: part[0], layers[layer])
            states[k], (own, _) = block.apply({"params": weights}, states[k], own, context)
            layers[layer] = jax.tree.map(lambda part: part[None], own)
    return jnp.concatenate(states, 1)
