"""Counts the multiplications and additions of a function's matrix products, loops included.

XLA's own `cost_analysis` counts the body of a scan once.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend import core


def matmul_flops(function: Callable, *arguments: Any, while_flops: Callable[[core.JaxprEqn], int] | None = None) -> int:
    """Floating-point operations (2 a multiply-add) of every dot product and convolution that `function` would run, on
    all devices together.

    Args:
        while_flops: operations of a `while` loop, whose length no one knows beforehand.

    Raises:
        NotImplementedError: such a loop without `while_flops`.
    """
    return jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr, while_flops)


def jaxpr_flops(jaxpr: core.Jaxpr, while_flops: Callable[[core.JaxprEqn], int] | None = None) -> int:
    """`matmul_flops` of what has been traced. Of a `cond` the dearest branch counts; what a `shard_map` holds, each of
    its devices does."""
    return sum(_of(equation, while_flops or _refuse) for equation in jaxpr.eqns)


def inner_jaxprs(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """What an equation calls: the body of a loop, a function, the branches of a `cond`."""
    values = [*equation.params.values(), *equation.params.get("branches", ())]
    return [getattr(value, "jaxpr", value) for value in values if isinstance(value, core.Jaxpr | core.ClosedJaxpr)]


def _of(equation: core.JaxprEqn, while_flops: Callable[[core.JaxprEqn], int]) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = parameters["dimension_numbers"]
        summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracting)
        return 2 * math.prod(equation.outvars[0].aval.shape) * summed
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name == "while":
        return while_flops(equation)
    inner = [jaxpr_flops(jaxpr, while_flops) for jaxpr in inner_jaxprs(equation)]
    if name == "cond":
        return max(inner)
    return sum(inner) * _times(name, parameters)


def _times(name: str, parameters: Mapping[str, Any]) -> int:
    """How often an equation runs what it calls."""
    if name == "scan":
        return parameters["length"]
    if name == "shard_map":
        mesh = parameters["mesh"]
        # Versions of JAX differ in the name; all axes is the default of `jax.shard_map`.
        axes = parameters.get("newly_manual_axes", parameters.get("manual_axes", mesh.axis_names))
        return math.prod(mesh.shape[axis] for axis in axes)
    return 1


def _refuse(equation: core.JaxprEqn) -> int:
    raise NotImplementedError("matmul_flops: a while loop has no known length")
