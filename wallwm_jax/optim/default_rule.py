"""Which leaves are matrices if the user gives no rule: decided by names and shapes.

AdamW gets every leaf with fewer than two axes, and by name, whatever its number of axes:
- embeddings: a name that contains "embed", or is wte, wpe, vocab, codebook, lookup, pos or position;
- norms: a name that contains "norm", or is ln;
- biases and scales: a last name that contains "bias", or is b, scale, gamma, beta, gain, offset or shift;
- heads: a name whose last word is "head" (lm_head), or classifier, logits or readout (with weight decay).

Muon gets the rest. Of a leaf with two axes the first is the input. Of more axes, in this order,
- the first one is stacked, and what is left is looked at again, below a name such as "layers", "blocks", "stack" or
  "scan..." if all leaves below it have one size there, and one of them has three axes or more (`nn.scan`, `jax.vmap`);
  a stacked vector is no matrix;
- a convolution (a name that contains "conv") has its output last, and all other axes are inputs; named "weight", as in
  PyTorch and Equinox, its output is first;
- attention projections with three axes or more have their input first (query, key, value, qkv, q, k, v, wq, ...) or
  their output last (out, o, wo, merge, below a name that contains "att");
- of all others the last two axes are input and output, and those before are stacked.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from wallwm_jax.optim.leaf_rules import LeafRule

_TABLES = {"wte", "wpe", "vocab", "vocabulary", "codebook", "lookup", "pos", "position", "positional"}
_VECTORS = {"scale", "scales", "gamma", "beta", "gain", "offset", "shift"}
_HEADS = {"classifier", "logits", "readout"}
_STACKS = {"layers", "blocks", "stack", "stacked", "h"}
_INTO_HEADS = {"query", "key", "value", "qkv", "q", "k", "v", "wq", "wk", "wv"}
_OUT_OF_HEADS = {"out", "o", "wo", "merge"}
_WRAPPERS = {"value", "raw_value"}
"""What `nnx.Variable` adds to the path of its array."""


def default_rules(leaves: Mapping[str, Any]) -> dict[str, LeafRule]:
    """The rule of every leaf (an array or a shape) by its slash-separated path."""
    wrapped = all(name.split("/")[-1] in _WRAPPERS for name in leaves)
    parts = {name: name.split("/")[:-1] if wrapped else name.split("/") for name in leaves}
    shapes = {name: jnp.shape(leaf) for name, leaf in leaves.items()}
    stacks = _stacks(parts, shapes)
    return {name: _rule(parts[name], shapes[name], _stacked_below(parts[name], stacks)) for name in leaves}


def _rule(parts: list[str], shape: tuple[int, ...], stacked: int) -> LeafRule:
    axes = len(shape)
    words = [_words(part) for part in parts]
    every = {word for part in words for word in part}
    if any("embed" in word for word in every) or every & _TABLES:
        return LeafRule(text="an embedding")
    if any("norm" in word for word in every) or "ln" in every:
        return LeafRule(text="a norm")
    last = words[-1] or [""]
    if any("bias" in word for word in last) or re.fullmatch(r"b[qkvo]?", last[0]) or set(last) & _VECTORS:
        return LeafRule(text="a bias or scale")
    if axes - stacked < 2:
        return LeafRule(text="stacked vectors" if axes > 1 else "a vector")
    if every & _HEADS or any(part[-1:] == ["head"] for part in words):
        return LeafRule(decay=True, text="a head")
    nearest = {word for part in words[-2:] for word in part}
    first, places = tuple(range(stacked)), tuple(range(stacked, axes))
    inputs, outputs, kind = places[-2:-1], places[-1:], "a matrix"
    if any("conv" in word for word in every):
        swapped = last == ["weight"] and len(places) > 2
        inputs, outputs, kind = (places[1:], places[:1], "conv") if swapped else (places[:-1], places[-1:], "conv")
    elif len(places) > 2 and nearest & _INTO_HEADS:
        inputs, outputs, kind = places[:1], places[1:], "attention"
    elif len(places) > 2 and any("att" in word for word in every) and nearest & _OUT_OF_HEADS:
        inputs, outputs, kind = places[:-1], places[-1:], "attention"
    else:
        first = (*first, *places[:-2])
    return LeafRule(first, inputs, outputs, "muon", True, text=f"{kind}: inputs {inputs}, outputs {outputs}")


def _stacks(parts: Mapping[str, list[str]], shapes: Mapping[str, tuple[int, ...]]) -> set[tuple[str, ...]]:
    """Paths below which every leaf is stacked along its first axis."""
    below: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for name, names in parts.items():
        for end, part in enumerate(names[:-1], start=1):
            if _names_a_stack(part) and not names[end].isdigit():
                below.setdefault(tuple(names[:end]), []).append(shapes[name])
    return {
        path
        for path, found in below.items()
        if all(found) and len({shape[0] for shape in found}) == 1 and max(map(len, found)) > 2
    }


def _names_a_stack(part: str) -> bool:
    words = _words(part)
    scanned = bool(words) and words[0].startswith("scan")  # nn.scan numbers it: ScanBlock_0
    return scanned or (bool(set(words) & _STACKS) and not part[-1].isdigit())


def _stacked_below(parts: list[str], stacks: set[tuple[str, ...]]) -> int:
    """Leading axes that are stacked: one, since the first axis is looked at once."""
    return int(any(tuple(parts[:end]) in stacks for end in range(1, len(parts))))


def _words(part: str) -> list[str]:
    """`LayerNorm_0` -> layer, norm."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)]
