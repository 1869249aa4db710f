"""Floating-point operations (2 a multiply-add) of the products in a compiled program, where every matrix product may be
a convolution: TPUs have no other."""

import functools
import math
import re

import numpy as np

from wallwm_jax.plan.hlo import Computation, Instruction


def product_flops(computation: Computation, step: Instruction) -> float:
    """Operations of a `dot` or `convolution`; 0 for anything else."""
    if step.operation == "dot":
        contracting = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", step.attributes)[1]
        left = computation.operands(step)[0].shape
        summed = math.prod(left[int(axis)] for axis in contracting.split(",") if axis)
        return 2.0 * math.prod(step.buffers[0].shape) * summed
    if step.operation == "convolution":
        return _convolution(computation, step)
    return 0.0


def _convolution(computation: Computation, step: Instruction) -> float:
    """Products with the zeros that padding and dilation put between the numbers are not taken."""
    left, right = (buffer.shape for buffer in computation.operands(step)[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", step.attributes).groups()
    inputs, kernel, outputs = (
        dict(zip(label, shape, strict=True))
        for label, shape in zip(labels, (left, right, step.buffers[0].shape), strict=True)
    )
    window = _window(step.attributes)
    pairs = 1.0
    for place, axis in enumerate(axis for axis in sorted(inputs) if axis.isdecimal()):
        options = tuple((name, values[place]) for name, values in window.items())
        pairs *= _valid_pairs(inputs[axis], kernel[axis], outputs[axis], options)
    return 2.0 * outputs["b"] * outputs["f"] * kernel["i"] * pairs


def _window(attributes: str) -> dict[str, tuple[int, ...]]:
    """`window={size=4x2 stride=3x1 pad=0_0x1_1 lhs_dilate=4x1}`, of paddings the lower."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    parts = dict(part.split("=") for part in found[1].split()) if found else {}
    rank = len(parts.get("size", "").split("x")) if parts else 0
    window = {}
    for name, default in (("stride", "1"), ("pad", "0_0"), ("lhs_dilate", "1"), ("rhs_dilate", "1")):
        values = parts.get(name, "x".join([default] * rank)).split("x") if rank else []
        window[name] = tuple(int(value.split("_")[0]) for value in values)
    return window


@functools.cache
def _valid_pairs(size: int, kernel: int, outputs: int, options: tuple[tuple[str, int], ...]) -> int:
    """(output, kernel) places of one axis that meet a number of the input."""
    stride, pad, dilation, spread = (dict(options)[name] for name in ("stride", "pad", "lhs_dilate", "rhs_dilate"))
    places = np.arange(outputs)[:, None] * stride + np.arange(kernel)[None] * spread - pad
    return int(np.sum((places >= 0) & (places <= (size - 1) * dilation) & (places % dilation == 0)))
