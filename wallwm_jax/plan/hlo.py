"""Reads the text of a compiled program (HLO): computations, instructions, shapes, how often a loop turns."""

import dataclasses
import math
import re
from collections.abc import Mapping

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3b11fnuz": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
"""Bits an element; what is not named (tokens) takes no room."""

_BUFFER = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{[^}]*?(?:S\((\d+)\))?\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r"^\s*([a-z][a-z0-9\-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One array. `space` 0 is the main memory (HBM)."""

    kind: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        return math.prod(self.shape) * BITS.get(self.kind, 0) / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`buffers` are those of its result, one or a tuple's; `attributes` is what stands behind its operands. The operand
    of a parameter or a constant is its number."""

    name: str
    operation: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    attributes: str

    def called(self, attribute: str) -> str | None:
        """The computation that `attribute` ("body", "calls", ...) names."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None

    @property
    def branches(self) -> tuple[str, ...]:
        """The computations of a conditional."""
        match = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if match:
            return tuple(name.strip().lstrip("%") for name in match[1].split(","))
        return tuple(name for name in map(self.called, ("true_computation", "false_computation")) if name)


@dataclasses.dataclass(frozen=True)
class Computation:
    instructions: Mapping[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> tuple[Buffer, ...]:
        """The buffers that an instruction reads."""
        found = (self.instructions[name] for name in instruction.operands if name in self.instructions)
        return tuple(buffer for operand in found for buffer in operand.buffers)


@dataclasses.dataclass(frozen=True)
class Program:
    computations: Mapping[str, Computation]
    entry: str

    def trips(self, computation: Computation, loop: Instruction) -> int | None:
        """How often a `while` turns, or None where that is not known before it runs.

        The compiler says so on some platforms; else it is a counter's limit, compared in the loop's condition. JAX
        counts from 0 by 1.
        """
        if match := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(match[1])
        condition = self.computations[loop.called("condition")]
        test = condition.instructions[condition.root]
        if test.operation == "fusion":
            return self._fused_trips(condition, test)
        if test.operation != "compare" or "direction=LT" not in test.attributes:
            return None
        return _constant(condition.instructions.get(test.operands[1]))

    def _fused_trips(self, condition: Computation, fusion: Instruction) -> int | None:
        """The same where the comparison has been fused: one of its operands is a constant."""
        inside = self.computations[fusion.called("calls")]
        if "direction=LT" not in inside.instructions[inside.root].attributes:
            return None
        limits = [_constant(condition.instructions.get(name)) for name in fusion.operands]
        limits += [_constant(instruction) for instruction in inside.instructions.values()]
        known = [limit for limit in limits if limit is not None]
        return known[0] if len(known) == 1 else None


def parse(text: str) -> Program:
    """The program of a text as `compiled.as_text()` gives it."""
    computations, entry, name, instructions, root = {}, "", "", {}, ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, instructions, root = head[2], {}, ""
            entry = name if head[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(instructions, root)
        elif match := _INSTRUCTION.match(line):
            instructions[match[2]] = _instruction(match[2], match[3])
            root = match[2] if match[1] else root
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    size = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    operation, rest = _OPERATION.match(text[size:]).groups()
    end = _closing("(" + rest, 0) - 1
    inside = rest[:end]
    operands = [inside] if operation in ("constant", "parameter") else re.findall(r"%([\w.\-]+)", inside)
    return Instruction(name, operation, _buffers(text[:size]), tuple(operands), rest[end + 1 :])


def _closing(text: str, start: int) -> int:
    """Place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def _buffers(text: str) -> tuple[Buffer, ...]:
    found = _BUFFER.findall(text)
    return tuple(
        Buffer(kind, tuple(int(side.lstrip("<=")) for side in sides.split(",") if side), int(space or 0))
        for kind, sides, space in found
    )


def _constant(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.operation != "constant" or not instruction.operands:
        return None
    text = instruction.operands[0]
    return int(text) if text.lstrip("-").isdecimal() else None
