"""Where activations lie on a mesh: their axes have names, and one table sends names to mesh axes.

| logical axis | mesh axes | what it counts |
|---|---|---|
| `rows` | `data`, `fsdp` | rows of the batch |
| `captions` | `data`, `fsdp`, `sequence` | captions: rows times segments |
| `slots` | `sequence` | latent frames of a row |
| `steps` | `sequence` | control steps of a row |
| `tokens` | `sequence` | what attends to each other, outside attention |
| `attended` | | the same inside attention |
| `heads` | `tensor`, `sequence` | attention heads |
| `views` | | cameras |
| `segments` | | events of a row |
| `draws` | | noises of a row's actions |
| `patches` | | patches of a picture |
| `letters` | | tokens of a caption |
| `head_dim` | | one head's width |
| `embed`, `action_embed`, `text_embed` | | widths of the towers and of the text encoder |

So `lay_out(x, "rows slots views patches embed")` cuts rows over `data` and `fsdp`, slots over `sequence`, and leaves
the rest whole. A mesh axis cuts an array once, along the first name that has it: outside attention tokens lie over
`sequence`, inside it they are whole and heads lie there (DeepSpeed-Ulysses, arXiv 2309.14509). Mesh axes that do not
divide an axis leave it whole, as with parameters.
"""

import math
from collections.abc import Mapping

import jax
from jaxtyping import Array

from wallwm_jax.core.mesh import MESH_AXES, partition

ACTIVATION_AXES: Mapping[str, tuple[str, ...]] = {
    "rows": ("data", "fsdp"),
    "captions": ("data", "fsdp", "sequence"),
    "slots": ("sequence",),
    "steps": ("sequence",),
    "tokens": ("sequence",),
    "heads": ("tensor", "sequence"),
    "attended": (),
    "views": (),
    "draws": (),
    "patches": (),
    "segments": (),
    "letters": (),
    "head_dim": (),
    "embed": (),
    "action_embed": (),
    "text_embed": (),
}
"""Logical axis of an activation -> mesh axes that cut it."""


def lay_out(x: Array, axes: str) -> Array:
    """`x`, whose axes have these names, as the table says.

    Parameters are cut along their widths, and left alone the compiler cuts the residual stream like them: it then sends
    activations through every layer where it should fetch a layer's parameters (FSDP). Unchanged where no mesh is set,
    the mesh has other axes, or it cuts none of these. Raises KeyError for an axis that the table does not have.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not set(MESH_AXES) <= set(mesh.axis_names):
        return x
    spec = partition([ACTIVATION_AXES[axis] for axis in axes.split()], x.shape, mesh)
    return jax.lax.with_sharding_constraint(x, spec) if any(spec) else x


def exchange(x: Array, *layouts: str) -> Array:
    """`x` laid out in one way after the other: around attention, devices send each other tokens for heads. Unchanged on
    a mesh that does not split a row's tokens, where the compiler knows from the parameters where heads are to lie."""
    for axes in layouts if splits_tokens() else ():
        x = lay_out(x, axes)
    return x


def joined(*sizes: int) -> tuple[int, ...]:
    """The shape that leading axes of these sizes are given: one axis, because XLA's CPU backend has no fast path for
    products of many. On a mesh that splits a row's tokens they stay apart: pieces of several axes are no piece of one,
    and would be brought together first."""
    return sizes if splits_tokens() else (math.prod(sizes),)


def splits_tokens() -> bool:
    """Whether the mesh in use has an axis `sequence` of several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape.get("sequence", 1) > 1
