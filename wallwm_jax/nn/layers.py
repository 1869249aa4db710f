"""Layers that every tower shares: linear maps, norms, AdaLN modulation, time features and feed-forward networks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from wallwm_jax.core.axes import declare
from wallwm_jax.nn.activations import joined
from wallwm_jax.nn.parameters import Initializer, ones, parameter, zeros

EPSILON = 1e-6


class Linear(nn.Module):
    """`x @ weight + bias` from the declaration's input axes to its output axes.

    Attributes:
      declaration: such as "embed -> heads head_dim"; a bias over two axes is a table "[heads] head_dim".
      sizes: sizes of the declared axes.
      init: the weight's initialiser (fan-in by default).
      bias: the bias's initialiser, or None for no bias.
      dtype: the product's dtype; parameters stay fp32.
    """

    declaration: str
    sizes: Mapping[str, int]
    init: Initializer | None = None
    bias: Initializer | None = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch_and_inputs"]) -> Float[Array, "*batch_and_outputs"]:
        parsed = declare(self.declaration)
        weight = parameter(self, "weight", self.declaration, self.sizes, self.init)
        _, rows, columns = parsed.matrix_shape(weight.shape)
        batch = x.shape[: x.ndim - len(parsed.inputs)]
        y = x.astype(self.dtype).reshape(*joined(*batch), rows) @ weight.astype(self.dtype).reshape(rows, columns)
        if self.bias is not None:
            first, *rest = parsed.outputs
            axes = f"[{first}] {' '.join(rest)}" if rest else first
            y = y + parameter(self, "bias", axes, self.sizes, self.bias).astype(self.dtype).reshape(columns)
        return y.reshape(batch + weight.shape[len(parsed.inputs) :])


def layer_norm(x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    """Layer norm without affine, in fp32 (a bf16 mean of squares loses the small channels); returns fp32."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + EPSILON)


def modulate(
    x: Float[Array, "*batch width"], shift: Float[Array, "*#batch width"], scale: Float[Array, "*#batch width"]
) -> Float[Array, "*batch width"]:
    """AdaLN: layer norm, then `(1 + scale) x + shift`, in fp32."""
    return layer_norm(x) * (1.0 + scale) + shift


class LayerNorm(nn.Module):
    """Layer norm with a learned scale and shift along `axis`; fp32."""

    axis: str
    sizes: Mapping[str, int]

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        scale = parameter(self, "scale", self.axis, self.sizes, ones)
        return layer_norm(x) * scale + parameter(self, "shift", self.axis, self.sizes)


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32 over all axes of `axes` ("embed", or "[heads] head_dim" as Wan's QK-norm does)."""

    axes: str
    sizes: Mapping[str, int]
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "*batch_and_axes"]) -> Float[Array, "*batch_and_axes"]:
        scale = parameter(self, "scale", self.axes, self.sizes, ones)
        over = tuple(range(-scale.ndim, 0))
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(x * x, over, keepdims=True) + self.epsilon) * scale


def sinusoid(
    values: Float[Array, "*batch"], count: int, longest: float = 10_000.0, scale: float = 1.0
) -> Float[Array, "*batch count"]:
    """Cosines then sines of `scale * values` at count / 2 frequencies from 1 down to 1 / longest, in fp32."""
    half = count // 2
    frequencies = jnp.exp(-jnp.log(longest) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = scale * values.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class TimeModulation(nn.Module):
    """Diffusion time -> time embedding and the AdaLN numbers that all blocks share (as Wan), fp32 throughout.

    Attributes:
      axis: "embed" or "action_embed".
      sizes: must give `axis`, "frequency" and "modulation".
    """

    axis: str
    sizes: Mapping[str, int]

    @nn.compact
    def __call__(
        self, time: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch width"], Float[Array, "*batch modulation width"]]:
        features = sinusoid(time, self.sizes["frequency"], scale=1000.0)
        hidden = nn.silu(Linear(f"frequency -> {self.axis} @adamw", self.sizes, name="first")(features))
        embedding = Linear(f"{self.axis} -> {self.axis}", self.sizes, name="second")(hidden)
        declaration = f"{self.axis} -> modulation {self.axis}"
        return embedding, Linear(declaration, self.sizes, name="modulation")(nn.silu(embedding))


class FeedForward(nn.Module):
    """Linear, tanh-GELU, Linear on the axis `axis` ("embed")."""

    axis: str
    sizes: Mapping[str, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        hidden = Linear(f"{self.axis} -> mlp", self.sizes, dtype=self.dtype, name="up")(x)
        hidden = nn.gelu(hidden, approximate=True)
        return Linear(f"mlp -> {self.axis}", self.sizes, dtype=self.dtype, name="down")(hidden)


class GatedFeedForward(nn.Module):
    """Gated network without biases: `down(activation(gate x) * up x)`; SwiGLU with "silu", T5's with "gelu"."""

    axis: str
    sizes: Mapping[str, int]
    activation: str = "silu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        up = Linear(f"{self.axis} -> mlp", self.sizes, bias=None, dtype=self.dtype, name="up")(x)
        gate = Linear(f"{self.axis} -> mlp", self.sizes, bias=None, dtype=self.dtype, name="gate")(x)
        gate = nn.silu(gate) if self.activation == "silu" else nn.gelu(gate, approximate=True)
        return Linear(f"mlp -> {self.axis}", self.sizes, bias=None, dtype=self.dtype, name="down")(gate * up)


def gather_segments(values: Shaped[Array, "B S *rest"], segment_ids: Int[Array, "B N"]) -> Shaped[Array, "B N *rest"]:
    """Each slot's own segment's value (ids from 1); zeros where the id is 0."""
    padded = jnp.concatenate([jnp.zeros_like(values[:, :1]), values], 1)
    return jax.vmap(lambda row, ids: row[ids])(padded, segment_ids)


def neighbourhoods(x: Float[Array, "N H W C"], stride: int) -> Float[Array, "N h w values"]:
    """The 3 x 3 neighbourhoods of every `stride`-th pixel, zero outside the picture: a convolution is a linear map of
    them."""
    x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1] - 2, x.shape[2] - 2
    # Slices and one matrix product: XLA's CPU backend has no fast path for a convolution's gradients.
    parts = [x[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, -1)
