"""The losses of waypoints and of gaze: where the end effectors will be, in the pictures of the event's anchor.

Places are (row, column), -1 to 1 from edge to edge. Whatever is not known is no label, and enters neither a loss nor
its mean.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from wallwm_jax.objectives.portions import Mean
from wallwm_jax.objectives.segments import masked_mean


def waypoint_loss(
    places: Float[Array, "*batch 2"],
    spreads: Float[Array, "*batch"],
    true: Float[Array, "*batch 2"],
    known: Bool[Array, "*batch"],
    mean: Mean = masked_mean,
) -> Float[Array, ""]:
    """Negative log likelihood of the true places under the waypoints' Laplace distributions in the plane (without its
    constant), mean over what is known."""
    distance = jnp.sqrt(jnp.sum(jnp.square(places - true), -1) + 1e-8)
    return mean(distance / spreads + 2.0 * jnp.log(spreads), known)


def gaze_loss(
    logits: Float[Array, "B S V query h w"],
    true: Float[Array, "B S V query arm 2"],
    known: Bool[Array, "B S V query arm"],
    mean: Mean = masked_mean,
) -> Float[Array, ""]:
    """Cross-entropy between the cells that a query looks at and the place where it should, split over the four nearest
    cells; several arms share the looking. The mean runs over `gazes` of what is known."""
    target = (_cells(true, logits.shape[4:]) * known[..., None, None]).sum(4)
    target = target / jnp.maximum(target.sum((-1, -2), keepdims=True), 1.0)
    log = jax.nn.log_softmax(logits.reshape(*logits.shape[:4], -1), -1).reshape(logits.shape)
    return mean(-(target * log).sum((-1, -2)), gazes(known))


def gazes(known: Bool[Array, "B S V query arm"]) -> Bool[Array, "B S V query"]:
    """Where somebody knows of an arm at least where to look."""
    return known.any(-1)


def _cells(places: Float[Array, "*batch 2"], grid: tuple[int, ...]) -> Float[Array, "*batch h w"]:
    """The share of each cell in a place, linear in its distance from the cell's centre; edges take what is beyond."""
    parts = []
    for axis, count in enumerate(grid):
        at = jnp.clip((places[..., axis] + 1.0) / 2.0 * count - 0.5, 0.0, count - 1.0)
        parts.append(jnp.maximum(1.0 - jnp.abs(at[..., None] - jnp.arange(count)), 0.0))
    return parts[0][..., :, None] * parts[1][..., None, :]
