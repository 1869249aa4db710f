"""One axis vocabulary, and the one string that declares a parameter.

    "embed -> heads head_dim"     a matrix from `embed` to `heads x head_dim`: Muon, weight decay, fan-in = embed
    "heads head_dim -> embed"     a matrix whose fan-in is heads x head_dim
    "embed"                       a vector (bias, norm scale, gate): AdamW, no decay
    "[vocabulary] embed"          a table looked up along the bracketed axis: AdamW, no decay
    "layers | embed -> mlp"       stacked along the axes before the bar (what `nn.scan` adds)
    "patch -> embed @adamw"       a matrix that the rule sends to AdamW all the same (with decay)

A declaration of two or more axes with neither an arrow nor a bracket names no rule and is refused.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from wallwm_jax.core.errors import InputError

AXES: Mapping[str, str] = {
    "layers": "depth of a scanned stack",
    "embed": "width of the video tower's residual stream",
    "action_embed": "width of the action tower's residual stream",
    "text_embed": "width of the text encoder",
    "language_embed": "width of the vision-language trunk",
    "heads": "attention heads",
    "key_heads": "key and value heads, each shared by a group of attention heads",
    "head_dim": "one head's width",
    "mlp": "hidden width of a feed-forward network",
    "patch": "values of one latent patch",
    "window": "values that a convolution sees, or a read returns",
    "stem": "channels of a convolution",
    "query": "learned questions",
    "modulation": "AdaLN shifts, scales and gates",
    "frequency": "sinusoidal time features",
    "dof": "unified degrees of freedom",
    "vocabulary": "text tokens",
    "view": "cameras",
    "view_rotation": "camera RoPE angles",
    "position": "learned positions",
    "latent": "Staircase latents",
    "relative": "buckets of relative position",
    "output": "a head's outputs",
}
"""Every logical axis name a parameter may use, with its meaning."""

OPTIMIZERS = ("muon", "adamw")


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A parsed declaration. `axes` runs over stack, inputs, outputs in storage order."""

    text: str
    stack: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookup: bool
    optimizer: str
    decay: bool

    @property
    def axes(self) -> tuple[str, ...]:
        return self.stack + self.inputs + self.outputs

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape from axis sizes; raises InputError when one is missing."""
        missing = [axis for axis in self.axes if axis not in sizes]
        if missing:
            raise InputError(f"parameter {self.text!r}", f"no size for {missing}", f"sizes for {list(self.axes)}")
        return tuple(sizes[axis] for axis in self.axes)

    def fan_in(self, sizes: Mapping[str, int]) -> int:
        """Numbers that one output sums over (1 for vectors and tables)."""
        return math.prod(sizes[axis] for axis in self.inputs) if self.is_matrix else 1

    @property
    def is_matrix(self) -> bool:
        return bool(self.inputs) and not self.lookup

    def matrix_order(self, split: Sequence[str] = ()) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Places of the axes that stack matrices, of their rows (inputs) and of their columns (outputs).

        Axes named in `split`, "heads" for example, count as stacked: each head's part is a matrix of its own.
        """
        first, middle = len(self.stack), len(self.stack) + len(self.inputs)
        apart = tuple(place for place in range(first, len(self.axes)) if self.axes[place] in split)
        rows = tuple(place for place in range(first, middle) if place not in apart)
        columns = tuple(place for place in range(middle, len(self.axes)) if place not in apart)
        return (*range(first), *apart), rows, columns

    def matrix_shape(self, shape: tuple[int, ...], split: Sequence[str] = ()) -> tuple[int, int, int]:
        """`(stacked matrices, rows = inputs, columns = outputs)` of an array of `shape`: Muon's view of it."""
        return tuple(math.prod(shape[place] for place in places) for places in self.matrix_order(split))

    def stacked(self, axis: str) -> "Declaration":
        """The declaration after `nn.scan` has put `axis` in front."""
        body = self.text.split("|", 1)
        stack = f"{axis} {body[0].strip()}" if len(body) == 2 else axis
        return declare(f"{stack} | {body[-1].strip()}")


def declare(text: str) -> Declaration:
    """Parses a declaration; raises InputError on an unknown axis, optimizer or a form that names no rule."""
    body, _, optimizer = text.partition("@")
    stack_text, bar, rest = body.rpartition("|")
    stack = tuple(stack_text.split()) if bar else ()
    if "->" in rest:
        left, _, right = rest.partition("->")
        inputs, outputs, lookup = tuple(left.split()), tuple(right.split()), False
        if not inputs or not outputs:
            raise InputError(f"parameter {text!r}", "an empty side of '->'", "axes on both sides")
    elif match := re.match(r"^\s*\[([^\]]*)\](.*)$", rest):
        inputs, outputs, lookup = tuple(match[1].split()), tuple(match[2].split()), True
    else:
        inputs, outputs, lookup = (), tuple(rest.split()), False
        if len(outputs) > 1:
            raise InputError(
                f"parameter {text!r}", "two or more axes and no rule", "'inputs -> outputs' or '[look-up] axes'"
            )
    matrix = bool(inputs) and not lookup
    optimizer = optimizer.strip() or ("muon" if matrix else "adamw")
    _check(text, (*stack, *inputs, *outputs), optimizer)
    return Declaration(text.strip(), stack, inputs, outputs, lookup, optimizer, decay=matrix)


def _check(text: str, axes: tuple[str, ...], optimizer: str) -> None:
    unknown = [axis for axis in axes if axis not in AXES]
    if unknown:
        raise InputError(f"parameter {text!r}", f"unknown axes {unknown}", f"names from {sorted(AXES)}")
    if optimizer not in OPTIMIZERS:
        raise InputError(f"parameter {text!r}", f"optimizer {optimizer!r}", f"one of {OPTIMIZERS}")
