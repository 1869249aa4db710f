"""Flow matching on the straight path: z_t = (1 - t) z_0 + t eps, target velocity eps - z_0 (WALL-WM eq. 7).

t = 1 is pure noise, t = 0 is data. All of it is fp32: times and losses are the island where bf16 would show.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from wallwm_jax.core.errors import InputError
from wallwm_jax.objectives.portions import WHOLE, Portion

TIME_SAMPLINGS = ("uniform", "logit_normal")
REGRESSED = ("velocity", "clean")

Times = Float[Array, "..."] | Float[np.ndarray, "..."] | float
"""Times in [0, 1], which broadcast against what moves with them."""


def interpolate(clean: Float[Array, "*#shape"], noise: Float[Array, "*#shape"], time: Times) -> Float[Array, "..."]:
    """The point at `time` of the path from data to noise; `time` broadcasts against both."""
    return (1 - time) * clean + time * noise


def velocity(clean: Float[Array, "*#shape"], noise: Float[Array, "*#shape"]) -> Float[Array, "..."]:
    """The path's constant derivative in t, which the network regresses."""
    return noise - clean


def clean_from_velocity(
    noisy: Float[Array, "*shape"], predicted: Float[Array, "*shape"], time: Times
) -> Float[Array, "*shape"]:
    """The end of the path that a predicted velocity points at: z_0 = z_t - t v."""
    return noisy - time * predicted


def shift_time(time: Times, shift: float) -> Times:
    """Wan's schedule shift: t -> s t / (1 + (s - 1) t), which spends more of [0, 1] near noise for s > 1."""
    return shift * time / (1 + (shift - 1) * time)


def sample_time(
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    sampling: str = "uniform",
    shift: float = 1.0,
    portion: Portion = WHOLE,
) -> Float[Array, "..."]:
    """Training times in (0, 1): uniform, or the logistic of a standard normal, then shifted.

    Raises InputError on an unknown sampling.
    """
    if sampling not in TIME_SAMPLINGS:
        raise InputError("time_sampling", repr(sampling), f"one of {TIME_SAMPLINGS}")
    if sampling == "uniform":
        base = portion.uniform(key, shape)
    else:
        base = jax.nn.sigmoid(portion.normal(key, shape))
    return shift_time(base, shift)


def weight(time: Times, regressed: str = "velocity") -> Float[Array, "..."]:
    """w(t) of a squared velocity error: 1, or t^2 to make it the error of the clean end, as z_0' - z_0 = -t (v' - v).

    Raises InputError on another quantity.
    """
    if regressed not in REGRESSED:
        raise InputError("regressed", repr(regressed), f"one of {REGRESSED}")
    return jnp.ones_like(time) if regressed == "velocity" else jnp.square(time)
