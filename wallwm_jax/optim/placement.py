"""How a mesh cuts the leaves that Muon updates: said by the user, by declarations, or read from the arrays."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import parameter_spec
from wallwm_jax.core.trees import path_name
from wallwm_jax.optim.leaf_rules import LeafRule

AnyMesh = Mesh | AbstractMesh


def leaf_specs(
    leaves: Mapping[str, Any], rules: Mapping[str, LeafRule], mesh: AnyMesh, shardings: Any = None
) -> dict[str, PartitionSpec]:
    """The partition of every matrix among the leaves, by path.

    It is that of `shardings` (a tree, or a prefix, of `NamedSharding`, `PartitionSpec` or arrays) if given; else that
    of the leaf's declaration; else what the array itself shows.

    Raises:
        InputError: a leaf whose sharding cannot be seen (under `jit`, on axes that are not Explicit), or names no axis
            of the mesh, or does not divide the leaf.
    """
    given, specs = _by_path(shardings), {}
    for name, leaf in leaves.items():
        if not rules[name].is_matrix:
            continue
        if shardings is not None:
            spec = _given(given, name)
        elif rules[name].declaration is not None:
            spec = parameter_spec(rules[name].declaration, leaf.shape, mesh)
        else:
            spec = _seen(leaf, mesh, name)
        specs[name] = _checked(spec, leaf.shape, mesh, name)
    return specs


def check_owners(owners: Collection[str] | None, mesh: AnyMesh | None) -> None:
    """Raises InputError if `owners` names what is no axis of the mesh."""
    axes = () if mesh is None else mesh.axis_names
    if owners is not None and (isinstance(owners, str) or not set(owners) <= set(axes)):
        raise InputError("muon owners", repr(owners), f"a tuple of axes of the mesh, {tuple(axes)}")


def sharded_leaves(leaves: Mapping[str, Any]) -> list[str]:
    """Names of the arrays that are seen to be cut over several devices.

    Raises InputError for one that is cut over Explicit axes: operations on it need the mesh.
    """
    cut = []
    for name, leaf in leaves.items():
        sharding = getattr(leaf, "sharding", None)
        if isinstance(leaf, jax.core.Tracer):
            sharding = jax.typeof(leaf).sharding
        explicit = _explicit_axes(sharding)
        if explicit:
            raise InputError("muon mesh", f"None, and {name} is cut over explicit axes {explicit}", "mesh=the mesh")
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and not leaf.is_fully_replicated:
            cut.append(name)
    return cut


def _explicit_axes(sharding: Any) -> list[str]:
    if not isinstance(sharding, NamedSharding):
        return []
    types = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    used = [axis for entry in sharding.spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
    return [axis for axis in used if types[axis] == AxisType.Explicit and sharding.mesh.shape[axis] > 1]


def _by_path(shardings: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(shardings, lambda node: isinstance(node, PartitionSpec))
    return {path_name(path): getattr(given, "sharding", given) for path, given in flat}


def _given(given: Mapping[str, Any], name: str) -> PartitionSpec:
    parts = name.split("/")
    prefixes = ("/".join(parts[:end]) for end in range(len(parts), -1, -1))
    found = given.get(next((prefix for prefix in prefixes if prefix in given), None))
    spec = getattr(found, "spec", found)
    if not isinstance(spec, PartitionSpec):
        raise InputError(f"muon shardings: {name}", repr(found), "a NamedSharding or a PartitionSpec")
    return spec


def _seen(leaf: Any, mesh: AnyMesh, name: str) -> PartitionSpec:
    if mesh.size == 1:
        return PartitionSpec()
    if isinstance(leaf, jax.core.Tracer):
        if all(kind == AxisType.Explicit for kind in mesh.axis_types):
            return jax.typeof(leaf).sharding.spec
        expected = "shardings=jax.tree.map(lambda leaf: leaf.sharding, parameters): jit hides Auto axes"
        raise InputError(f"muon shardings: {name}", None, expected)
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding):
        return sharding.spec
    if sharding is None or sharding.is_fully_replicated:
        return PartitionSpec()
    raise InputError(f"muon shardings: {name}", sharding, "a NamedSharding")


def _checked(spec: PartitionSpec, shape: tuple[int, ...], mesh: AnyMesh, name: str) -> PartitionSpec:
    for entry, size in zip(spec, shape, strict=False):
        axes = (entry,) if isinstance(entry, str) else () if entry is None else entry
        if not isinstance(axes, tuple) or not set(axes) <= set(mesh.axis_names):
            raise InputError(f"muon shardings: {name}", spec, f"axes of the mesh, {mesh.axis_names}")
        for axis in axes:
            size = size / mesh.shape[axis]
        if size != int(size):
            raise InputError(f"muon shardings: {name}", f"{spec} of {shape}", f"sizes that {dict(mesh.shape)} divides")
    return spec
