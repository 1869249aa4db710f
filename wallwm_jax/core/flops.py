"""Counts the multiplications and additions of a function's matrix products, loops included.

XLA's own `cost_analysis` counts the body of a scan once.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def matmul_flops(function: Callable, *arguments: Any) -> int:
    """Floating-point operations (2 a multiply-add) of every dot product and convolution that `function` would run.

    Raises:
        NotImplementedError: a `while` loop, whose length no one knows beforehand.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_of(equation) for equation in jaxpr.eqns)


def _of(equation: core.JaxprEqn) -> int:
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
        raise NotImplementedError("matmul_flops: a while loop has no known length")
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in parameters["branches"])
    inner = [value for value in parameters.values() if isinstance(value, core.Jaxpr | core.ClosedJaxpr)]
    total = sum(_count(getattr(item, "jaxpr", item)) for item in inner)
    return total * parameters["length"] if name == "scan" else total
