"""What a compiled program does on each device, loops as often as they turn: bytes sent, bytes of HBM, products."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

from wallwm_jax.plan.groups import members, permuted_pairs, replica_groups
from wallwm_jax.plan.hlo import Computation, Instruction, Program
from wallwm_jax.plan.memory_traffic import memory_bytes
from wallwm_jax.plan.products import product_flops

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Sent:
    """Bytes that a device sends in one kind of collective, over the links of its slice and between slices."""

    links: float = 0.0
    network: float = 0.0
    calls: float = 0.0

    def __add__(self, other: "Sent") -> "Sent":
        return Sent(self.links + other.links, self.network + other.network, self.calls + other.calls)

    def __mul__(self, times: float) -> "Sent":
        return Sent(self.links * times, self.network * times, self.calls * times)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """A device's share of a program: what it sends, by kind, bytes of HBM and operations of products.

    `unknown_loops` is how many loops have a length that only the running program knows: of their bytes one turn counts,
    of their operations none.
    """

    sent: Mapping[str, Sent] = dataclasses.field(default_factory=dict)
    memory: float = 0.0
    flops: float = 0.0
    unknown_loops: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        kinds = sorted({*self.sent, *other.sent})
        both = {kind: self.sent.get(kind, Sent()) + other.sent.get(kind, Sent()) for kind in kinds}
        unknown = self.unknown_loops + other.unknown_loops
        return Traffic(both, self.memory + other.memory, self.flops + other.flops, unknown)

    def __mul__(self, times: float) -> "Traffic":
        multiplied = {kind: value * times for kind, value in self.sent.items()}
        return Traffic(multiplied, self.memory * times, self.flops * times, self.unknown_loops)

    @property
    def total_sent(self) -> Sent:
        return sum(self.sent.values(), Sent())


def traffic(program: Program, slices: Sequence[int]) -> Traffic:
    """The traffic of a whole program; `slices` gives the slice of every device, in the order of its partitions."""
    return _Reader(program, tuple(slices)).of(program.entry)


class _Reader:
    """Adds up computations from the inside out, each once."""

    def __init__(self, program: Program, slices: tuple[int, ...]):
        self.program, self.slices = program, slices
        self.of = functools.cache(self._of)

    def _of(self, name: str) -> Traffic:
        computation = self.program.computations[name]
        return sum((self._step(computation, step) for step in computation.instructions.values()), Traffic())

    def _step(self, computation: Computation, step: Instruction) -> Traffic:
        operation = step.operation
        if operation == "while":
            turns, body = self.program.trips(computation, step), self.of(step.called("body"))
            return (
                body * turns
                if turns is not None
                else dataclasses.replace(body, flops=0.0, unknown_loops=body.unknown_loops + 1)
            )
        if operation == "conditional":
            return max((self.of(name) for name in step.branches), key=lambda found: (found.flops, found.memory))
        if operation == "fusion":
            inside = _scattered(step.called("calls"), self.of(step.called("calls")))
            return dataclasses.replace(inside, memory=memory_bytes(self.program, computation, step))
        if operation in ("call", "async-start"):
            return self.of(step.called("to_apply") or step.called("calls"))
        kind = operation.removesuffix("-start")
        if operation == "send" and (transfer := _BETWEEN_SLICES.search(step.attributes)):
            found = {transfer[1].lower().replace("_", "-"): self._sent_between_slices(transfer[1], step)}
            return Traffic(found, memory_bytes(self.program, computation, step))
        found = {kind: self._sent(kind, computation, step)} if kind in COLLECTIVES else {}
        return Traffic(found, memory_bytes(self.program, computation, step), product_flops(computation, step))

    def _sent_between_slices(self, transfer: str, step: Instruction) -> Sent:
        """TPUs hand to their hosts what remains between slices after the slices' own collectives."""
        count = len(set(self.slices))
        rounds = {"ALL_REDUCE": 2 * (count - 1) / count, "REDUCE_SCATTER": (count - 1) / count, "ALL_GATHER": count - 1}
        return Sent(network=rounds.get(transfer, 1) * step.buffers[0].bytes, calls=1)

    def _sent(self, kind: str, computation: Computation, step: Instruction) -> Sent:
        if kind == "collective-permute":
            pairs = permuted_pairs(step.attributes)
            crossing = any(self.slices[source] != self.slices[target] for source, target in pairs)
            size = step.buffers[0].bytes
            return Sent(0.0 if crossing else size, size if crossing else 0.0, 1)
        inside, spanned = members(replica_groups(step.attributes, len(self.slices)), self.slices)
        size = sum(buffer.bytes for buffer in computation.operands(step))
        return sent(kind, size * inside * spanned if kind == "all-gather" else size, inside, spanned)


def _scattered(name: str, inside: Traffic) -> Traffic:
    """TPUs spell a reduce-scatter as an all-reduce of which a fusion of this name keeps a part."""
    if not name.startswith("all-reduce-scatter") or "all-reduce" not in inside.sent:
        return inside
    whole = inside.sent["all-reduce"]
    return dataclasses.replace(inside, sent={"reduce-scatter": Sent(whole.links / 2, whole.network / 2, whole.calls)})


def sent(kind: str, size: int | float, inside: int, spanned: int) -> Sent:
    """What a device of a group sends by the best known ring algorithms: in each of the `spanned` slices first, among
    `inside` devices, and then between slices what is left a device. `size` is what a device puts in, of an all-gather
    what comes out."""
    rounds = 2 if kind == "all-reduce" else 1
    shares = ((inside - 1) / inside, (spanned - 1) / spanned / inside)
    return Sent(*(rounds * share * size for share in shares), 1)
