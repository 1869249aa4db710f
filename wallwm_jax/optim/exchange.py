"""Newton-Schulz under a mesh, each matrix on its owner alone (`optim.ownership`).

For every group: a device cuts out, of its blocks, those of the matrices that the owners in its replica have; an
all-to-all brings each owner its matrices whole; it iterates on them one by one, with no collective inside; a second
all-to-all and an all-gather over the replicas bring every device the blocks it keeps. An owner's matrices stay in one
order of blocks, which permutes rows and columns; orthogonalisation does not mind.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from wallwm_jax.optim.newton_schulz import in_turn
from wallwm_jax.optim.ownership import Share

Orthogonalize = Callable[[Float[Array, "m k"]], Float[Array, "m k"]]


def orthogonalize_by_owners(
    blocks: Float[Array, "n rows columns"], share: Share, dtype: DTypeLike, orthogonalize: Orthogonalize
) -> Float[Array, "n rows columns"]:
    """This device's blocks of a group's matrices after the owners have orthogonalised them; inside `jax.shard_map`.

    Args:
        dtype: what is sent, and what the iteration is given.
    """
    replicas, exchanged = share.replicas, share.group.cut.exchanged
    kept, inverse = share.returned
    replica = jax.lax.axis_index(replicas) if replicas else 0
    first = replica * share.blocks
    chosen = jax.lax.dynamic_slice_in_dim(jnp.asarray(share.table), first, share.blocks)
    whole = _assemble(_all_to_all(blocks.astype(dtype)[chosen], exchanged), share)
    me = first + (jax.lax.axis_index(exchanged) if exchanged else 0)
    done = in_turn(orthogonalize, whole, jnp.asarray(share.counts)[me])
    found = _all_to_all(_disassemble(done, blocks.shape[1:]), exchanged).reshape(-1, *blocks.shape[1:])
    found = found[jnp.asarray(kept)[replica]]
    if replicas:
        found = jax.lax.all_gather(found, replicas, tiled=True)
    return found[jnp.asarray(inverse)].astype(blocks.dtype)


def _all_to_all(values: Array, axes: tuple[str, ...]) -> Array:
    return jax.lax.all_to_all(values, axes, 0, 0, tiled=True) if axes else values


def _assemble(values: Float[Array, "block place rows columns"], share: Share) -> Float[Array, "place m k"]:
    group = share.group
    parts = values.reshape(group.m // values.shape[2], -1, *values.shape[1:])
    return parts.transpose(2, 0, 3, 1, 4).reshape(values.shape[1], group.m, group.k)


def _disassemble(values: Float[Array, "place m k"], block: tuple[int, int]) -> Float[Array, "block place rows columns"]:
    places, m, k = values.shape
    parts = values.reshape(places, m // block[0], block[0], k // block[1], block[1])
    return parts.transpose(1, 3, 0, 2, 4).reshape(-1, places, *block)
