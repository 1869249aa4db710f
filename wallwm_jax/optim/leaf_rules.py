"""One leaf's rule: whether it is a matrix, and of which of its axes.

A rule for one leaf is one of

| rule | the leaf is |
|---|---|
| `"d_model -> d_ff"` | a matrix; axis names of the user's own, in storage order, inputs left of the arrow |
| `"cout <- cin kh kw"` | a matrix stored with its outputs first, left of the arrow |
| `"layers | embed -> mlp"` | a stack of matrices along the axes before the bar |
| `"embed"`, `"[vocabulary] embed"` | no matrix: AdamW without weight decay |
| `"d_model -> vocabulary @adamw"` | a matrix that AdamW gets all the same, with weight decay |
| `optax.contrib.MuonDimensionNumbers` | a matrix with these axes; all other axes are stacked |
| `core.axes.Declaration` | what it declares |
| None | no matrix: AdamW without weight decay |
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from optax.contrib import MuonDimensionNumbers

from wallwm_jax.core.axes import Declaration
from wallwm_jax.core.errors import InputError

LeafText = str | MuonDimensionNumbers | Declaration | None
EXPECTED = "'inputs -> outputs', 'outputs <- inputs', '[lookup] axes', MuonDimensionNumbers or None"


@dataclasses.dataclass(frozen=True)
class LeafRule:
    """One leaf's rule: the places of its axes that stack matrices, of their inputs and of their outputs (both empty if
    it is no matrix), and the optimizer and weight decay that follow."""

    stack: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    optimizer: str = "adamw"
    decay: bool = False
    names: tuple[str, ...] = ()
    """Axis names in storage order, if the rule names axes."""
    text: str = "none"
    """What the table shows."""
    declaration: Declaration | None = None
    """Where the rule comes from one: it also says how a mesh cuts the leaf."""

    @property
    def is_matrix(self) -> bool:
        return bool(self.inputs)

    def matrix_order(self, split: Sequence[str] = ()) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Places of stacked axes, rows (inputs) and columns (outputs); axes named in `split` count as stacked."""
        apart = tuple(place for place, name in enumerate(self.names) if name in split and place not in self.stack)
        rows, columns = (
            tuple(place for place in places if place not in apart) for places in (self.inputs, self.outputs)
        )
        return (*self.stack, *apart), rows, columns

    def matrix_shape(self, shape: Sequence[int], split: Sequence[str] = ()) -> tuple[int, int, int]:
        """`(stacked matrices, rows = inputs, columns = outputs)` of an array of `shape`: Muon's view of it."""
        return tuple(math.prod(shape[place] for place in places) for places in self.matrix_order(split))


def leaf_rule(given: Any, name: str, shape: Sequence[int]) -> LeafRule:
    """One leaf's rule from one of the forms; raises InputError, naming the leaf, if it is none or does not fit."""
    if given is None:
        return LeafRule()
    if isinstance(given, MuonDimensionNumbers):
        return _from_numbers(given, name, shape)
    if isinstance(given, Declaration):
        found = _from_declaration(given)
    elif isinstance(given, str):
        found = parse_rule(given, name)
    else:
        raise InputError(f"muon rule of {name}", repr(given), EXPECTED)
    if len(found.names) != len(shape):
        axes = f"{len(found.names)} axes in {found.text!r}"
        raise InputError(f"muon rule of {name}", axes, f"{len(shape)}, those of the shape {tuple(shape)}")
    return found


def parse_rule(text: str, name: str = "a leaf") -> LeafRule:
    """Reads a rule's text; raises InputError, naming the leaf, if it cannot be read."""
    body, at, optimizer = text.partition("@")
    optimizer = optimizer.strip()
    if at and optimizer not in ("adamw", "muon"):
        raise InputError(f"muon rule of {name}", repr(text), "'@adamw', '@muon' or nothing at its end")
    stacked, bar, rest = body.rpartition("|")
    stack = tuple(stacked.split()) if bar else ()
    arrow = next((arrow for arrow in ("<-", "->") if arrow in rest), None)
    if arrow is None:
        names = (*stack, *rest.replace("[", " ").replace("]", " ").split())
        if optimizer == "muon" or ("[" not in rest and len(rest.split()) > 1):
            raise InputError(f"muon rule of {name}", repr(text), EXPECTED)
        return LeafRule(names=names, text=text.strip())
    left, right = (tuple(side.split()) for side in rest.split(arrow, 1))
    names = (*stack, *left, *right)
    if not left or not right or any(not part.replace("_", "a").isalnum() for part in names):
        raise InputError(f"muon rule of {name}", repr(text), f"axis names on both sides of {arrow!r}")
    middle = len(stack) + len(left)
    sides = tuple(range(len(stack), middle)), tuple(range(middle, len(names)))
    inputs, outputs = sides if arrow == "->" else sides[::-1]
    return LeafRule(tuple(range(len(stack))), inputs, outputs, optimizer or "muon", True, names, text.strip())


def _from_declaration(given: Declaration) -> LeafRule:
    stack, rows, columns = given.matrix_order() if given.is_matrix else ((), (), ())
    return LeafRule(stack, rows, columns, given.optimizer, given.decay, given.axes, given.text, given)


def _from_numbers(given: MuonDimensionNumbers, name: str, shape: Sequence[int]) -> LeafRule:
    count = len(shape)
    sides = []
    for axes in given:
        axes = (axes,) if isinstance(axes, int) else tuple(axes)
        if not axes or any(not -count <= axis < count for axis in axes):
            raise InputError(f"muon rule of {name}", given, f"axes of a leaf of shape {tuple(shape)}")
        sides.append(tuple(axis % count for axis in axes))
    inputs, outputs = sides
    if len({*inputs, *outputs}) != len(inputs) + len(outputs):
        raise InputError(f"muon rule of {name}", given, "every axis once")
    stack = tuple(place for place in range(count) if place not in (*inputs, *outputs))
    return LeafRule(stack, inputs, outputs, "muon", True, text=f"inputs {inputs}, outputs {outputs}")
