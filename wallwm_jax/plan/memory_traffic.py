"""Bytes of HBM that one instruction of a compiled program reads and writes."""

from collections.abc import Mapping, Sequence

from wallwm_jax.plan.hlo import Buffer, Computation, Instruction, Program

_MOVES_NOTHING = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "async-start",
    "after-all", "partition-id", "replica-id", "opt-barrier", "domain",
})  # fmt: skip
_PARTS = frozenset({"dynamic-slice", "slice", "gather"})
_SAME_BYTES = frozenset({"bitcast", "reshape"})


def memory_bytes(program: Program, computation: Computation, step: Instruction) -> float:
    """Bytes read and written, each operand and result once; what lies in other memories (VMEM) is free."""
    operation = step.operation
    if operation in _MOVES_NOTHING or operation.endswith("-done"):
        return 0.0
    if operation.endswith("-start") or operation in ("send", "recv"):  # what it reads and writes is in its result
        return sum(map(_in_memory, step.buffers))
    if operation in _PARTS:
        return 2 * sum(map(_in_memory, step.buffers))
    operands = computation.operands(step)
    if operation == "dynamic-update-slice":
        return 2 * _in_memory(operands[1])
    if operation == "fusion":
        return _fused(program.computations[step.called("calls")], step, operands)
    return sum(map(_in_memory, (*step.buffers, *operands)))


def _fused(inside: Computation, fusion: Instruction, operands: Sequence[Buffer]) -> float:
    """Of an operand that is only sliced, the slices; of a result that is updated in its place, the update."""
    users: dict[str, list[Instruction]] = {}
    for user in inside.instructions.values():
        for name in user.operands:
            users.setdefault(name, []).append(user)
    parameters = {int(step.operands[0]): step for step in inside.instructions.values() if step.operation == "parameter"}
    known = [parameters[place] for place, buffer in enumerate(operands) if _in_memory(buffer) and place in parameters]
    read = sum(_read(parameter, users) for parameter in known)
    return read + _written(inside, fusion)


def _read(parameter: Instruction, users: Mapping[str, Sequence[Instruction]]) -> float:
    whole = sum(buffer.bytes for buffer in parameter.buffers)
    read = 0.0
    for user in users.get(parameter.name, ()):
        if user.operation in _SAME_BYTES:
            read += _read(user, users)
        elif user.operands[0] != parameter.name:
            return whole
        elif user.operation in _PARTS:
            read += sum(buffer.bytes for buffer in user.buffers)
        elif user.operation != "dynamic-update-slice":
            return whole
    return min(read, whole)


def _written(inside: Computation, fusion: Instruction) -> float:
    root = inside.instructions[inside.root]
    results = [inside.instructions[name] for name in root.operands] if root.operation == "tuple" else [root]
    if len(results) != len(fusion.buffers):
        return sum(map(_in_memory, fusion.buffers))
    return sum(
        _update(inside, result) for result, buffer in zip(results, fusion.buffers, strict=True) if not buffer.space
    )


def _update(inside: Computation, result: Instruction) -> float:
    while result.operation in _SAME_BYTES and result.operands[0] in inside.instructions:
        result = inside.instructions[result.operands[0]]
    if result.operation == "dynamic-update-slice":
        return sum(buffer.bytes for buffer in inside.instructions[result.operands[1]].buffers)
    return sum(buffer.bytes for buffer in result.buffers)


def _in_memory(buffer: Buffer) -> float:
    return 0.0 if buffer.space else buffer.bytes
