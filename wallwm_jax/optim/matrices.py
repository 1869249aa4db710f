"""A parameter as Muon sees it: stacked matrices, wide ones, and how a mesh cuts them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from wallwm_jax.optim.leaf_rules import LeafRule
from wallwm_jax.optim.ownership import Cut


@dataclasses.dataclass(frozen=True)
class MatrixView:
    """The places of a leaf's axes that stack matrices, of their rows (inputs) and of their columns (outputs)."""

    places: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    inputs: int
    outputs: int
    stack: int
    """Matrices of the whole leaf."""
    cut: Cut
    spec: PartitionSpec
    coefficients: str
    """The set of polynomials that orthogonalises them."""

    @property
    def tall(self) -> bool:
        """Whether matrices are transposed; of square ones those whose cut would be that of others if they were."""
        square = self.inputs == self.outputs
        return self.cut.rows > self.cut.columns if square else self.inputs > self.outputs

    @property
    def wide(self) -> tuple[int, int]:
        """Rows and columns after tall matrices have been transposed."""
        return min(self.inputs, self.outputs), max(self.inputs, self.outputs)

    @property
    def wide_cut(self) -> Cut:
        return self.cut.transposed if self.tall else self.cut

    def stacked_on(self, mesh: Mapping[str, int]) -> int:
        """Matrices of each part of a stack that the mesh cuts."""
        return self.stack // math.prod(mesh[axis] for axis in self.cut.stack)

    def stacked(self, shape: Sequence[int]) -> int:
        """Matrices of a leaf, or of a block of it, of this shape."""
        return math.prod(shape[place] for place in self.places[0])

    def matrices(self, leaf: Array) -> Float[Array, "n rows columns"]:
        """Wide matrices of a leaf, or blocks of them from a block of it."""
        shape = [math.prod(leaf.shape[place] for place in places) for places in self.places]
        found = leaf.transpose(sum(self.places, ())).reshape(shape)
        return found.mT if self.tall else found

    def leaf(self, matrices: Float[Array, "n rows columns"], shape: Sequence[int]) -> Array:
        """Undoes `matrices`: a leaf, or a block of one, of this shape."""
        order = sum(self.places, ())
        found = matrices.mT if self.tall else matrices
        return found.reshape([shape[place] for place in order]).transpose(np.argsort(order))


def view_of(
    rule: LeafRule,
    shape: Sequence[int],
    coefficients: str,
    split: Sequence[str] = (),
    spec: PartitionSpec = PartitionSpec(),  # noqa: B008 (immutable)
) -> MatrixView:
    """The view of a leaf of this (global) shape that a mesh cuts by `spec`."""
    places = rule.matrix_order(split)
    cuts = {place: (axes,) if isinstance(axes, str) else tuple(axes) for place, axes in enumerate(spec) if axes}
    stack, rows, columns = (sum((cuts.get(place, ()) for place in part), ()) for part in places)
    count, inputs, outputs = rule.matrix_shape(shape, split)
    return MatrixView(places, inputs, outputs, count, Cut(rows, columns, stack), spec, coefficients)
