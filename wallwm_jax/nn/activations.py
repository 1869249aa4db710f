"""Where activations lie on a mesh."""

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from wallwm_jax.core.mesh import BATCH_AXES, row_shards


def by_rows(x: Array) -> Array:
    """`x` with its leading axis, rows of events, over the mesh axes of the batch and all others whole.

    Parameters are cut along `embed`, and left alone the compiler cuts the residual stream like them: it then sends
    activations through every layer where it should fetch a layer's parameters (FSDP). Unchanged where no mesh is set,
    the mesh has other axes, or the rows do not divide.
    """
    shards = row_shards()
    if shards == 1 or x.shape[0] % shards:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))
