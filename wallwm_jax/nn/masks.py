"""Attention masks of packed rows: a token sees only real tokens of its own event."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from wallwm_jax.nn.activations import joined
from wallwm_jax.nn.attention import AttentionMask, attention_mask
from wallwm_jax.nn.sight_cones import co_visible


def same_segment(queries: Int[Array, "B q"], keys: Int[Array, "B k"], real: Bool[Array, "B k"]) -> Bool[Array, "B q k"]:
    """Whether query and key belong to the same event (ids from 1, 0 is padding) and the key is real."""
    return (queries[:, :, None] == keys[:, None, :]) & (real & (keys > 0))[:, None, :]


def within_view_mask(segment_ids: Int[Array, "B F"], real: Bool[Array, "B F V"], patches: int) -> AttentionMask:
    """Mask of attention over one view's `F * patches` tokens; batch axes `B V`, joined, queries and keys slot-major."""
    rows, slots, views = real.shape
    real = real.swapaxes(1, 2).reshape(rows * views, slots)
    ids = jnp.repeat(segment_ids, views, axis=0)
    allowed = _spread(_spread(same_segment(ids, ids, real), patches, 1), patches, 2)
    return attention_mask(allowed.reshape(*joined(rows, views), *allowed.shape[1:]))


def cross_view_mask(
    real: Bool[Array, "B F V"], patches: int, visible: Bool[Array, "B F q k"] | None = None
) -> AttentionMask:
    """Mask of attention over all views of one slot; batch axes `B F`, joined, queries and keys view-major.

    `visible` (sight cones, training only) removes further pairs of different views.
    """
    rows, slots, views = real.shape
    keys = _spread(real.reshape(*joined(rows, slots), views), patches, -1)
    allowed = jnp.broadcast_to(keys[..., None, :], (*keys.shape, views * patches))
    if visible is not None:
        allowed = allowed & visible.reshape(allowed.shape)
    return attention_mask(allowed)


def coupling_mask(
    action_ids: Int[Array, "B A"], frame_ids: Int[Array, "B F"], real: Bool[Array, "B F V"], patches: int
) -> AttentionMask:
    """Mask from action slots to the `F * V * patches` video tokens of their own event."""
    rows, slots, views = real.shape
    ids = jnp.repeat(frame_ids, views, axis=1)
    allowed = same_segment(action_ids, ids, real.reshape(rows, slots * views))
    return attention_mask(_spread(allowed, patches, 2))


def sight_cone_mask(
    intrinsics: Float[Array, "B F V 3 3"],
    extrinsics: Float[Array, "B F V 4 4"],
    known: Bool[Array, "B F V"],
    grid: tuple[int, int],
    patch_pixels: int,
    reach: tuple[float, float],
) -> Bool[Array, "B F q k"]:
    """Pairs of patches (view-major) that may see the same matter (WALL-WM eqs. 2-6).

    Pairs within a view, and pairs with a camera of unknown calibration, are always allowed.
    """
    patches, views = grid[0] * grid[1], known.shape[-1]
    visible = co_visible(intrinsics, extrinsics, grid, patch_pixels, reach)
    view = jnp.repeat(jnp.arange(views), patches)
    known = _spread(known, patches, 2)
    unknown = ~(known[..., :, None] & known[..., None, :])
    return visible | unknown | (view[:, None] == view[None, :])


def repeat_queries(mask: AttentionMask, times: int) -> AttentionMask:
    """The mask for `times` copies of the queries, one copy after the other."""
    return AttentionMask(jnp.tile(mask.bias, (1, 1, times, 1)), jnp.tile(mask.rows, (1, times, 1, 1)))


def repeat_batch(mask: AttentionMask, times: int) -> AttentionMask:
    """The mask for `times` copies of every batch element, neighbours of each other; the two axes joined."""
    batch = joined(len(mask.bias), times)
    return AttentionMask(*(jnp.repeat(part, times, axis=0).reshape(*batch, *part.shape[1:]) for part in mask))


def _spread(values: Array, patches: int, axis: int) -> Array:
    """Repeats every entry of `axis` for each of its patches."""
    return jnp.repeat(values, patches, axis=axis)
