"""Which device orthogonalises which matrix: whole matrices, balanced by what each costs (owner computes).

A mesh that shards parameters leaves every device a block of every matrix. Newton-Schulz on blocks would need
collectives in every step; instead each matrix is brought together on one device, its *owner*, and sent back. Matrices
that are cut alike and have one shape form a group, whose exchange is one collective; the owners of all groups are
chosen together, the costliest matrix first and always the device with the least to do (longest processing time first).
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the blocks of a matrix lie on a mesh: axes that cut its rows, its columns, and the stack it stands in."""

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()

    @property
    def transposed(self) -> "Cut":
        return Cut(self.columns, self.rows, self.stack)

    @property
    def exchanged(self) -> tuple[str, ...]:
        """Axes over which a matrix's blocks are brought together, rows first."""
        return self.rows + self.columns


@dataclasses.dataclass(frozen=True)
class Group:
    """Matrices `m x k`, m <= k, all cut alike; `count` of them, or of each part of a stack that is cut. The iteration
    of one takes `flops` operations."""

    m: int
    k: int
    cut: Cut
    count: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Share:
    """A group's owners. Owners are numbered over the mesh axes `replicas`, then `group.cut.exchanged`, row-major."""

    group: Group
    replicas: tuple[str, ...]
    """Mesh axes over which every device has the same blocks, and whose devices share the work."""
    blocks: int
    """Blocks of a matrix, which is the number of owners in a replica."""
    table: Int[np.ndarray, "owner place"]
    """The matrices that each owner has, by number; 0 in places that are empty."""
    counts: Int[np.ndarray, "owner"]
    """How many places of an owner are taken: the first ones."""

    @property
    def returned(self) -> tuple[Int[np.ndarray, "replica kept"], Int[np.ndarray, "count"]]:
        """What the owners of each replica have done, as places in their rows of `table` laid end to end (0 where a
        replica has done less than another); and where each matrix stands in these places of all replicas."""
        places = self.table.shape[1]
        done = [
            [(owner, place) for owner in range(first, first + self.blocks) for place in range(self.counts[owner])]
            for first in range(0, len(self.table), self.blocks)
        ]
        kept, inverse = np.zeros((len(done), max(map(len, done))), np.int32), np.zeros(self.group.count, np.int32)
        for replica, pairs in enumerate(done):
            for number, (owner, place) in enumerate(pairs):
                kept[replica, number] = owner % self.blocks * places + place
                inverse[self.table[owner, place]] = replica * kept.shape[1] + number
        return kept, inverse


@dataclasses.dataclass(frozen=True)
class Ownership:
    """The shares of all groups on a mesh."""

    shares: tuple[Share, ...]
    flops: Int[np.ndarray, "..."]
    """Of the iterations that every device runs, in the mesh's shape."""

    @property
    def balance(self) -> float:
        """The busiest device's operations over an even share of all: 1 is ideal."""
        return float(self.flops.max() / self.flops.mean()) if self.flops.sum() else 1.0

    @property
    def padding(self) -> float:
        """Places in the exchanges over matrices exchanged: 1 sends nothing in vain."""
        matrices = sum(share.group.count * share.group.m * share.group.k for share in self.shares)
        places = sum(share.table.size * share.group.m * share.group.k for share in self.shares)
        return places / matrices if matrices else 1.0


def assign(groups: Sequence[Group], mesh: Mapping[str, int], owners: Collection[str] | None = None) -> Ownership:
    """Owners for every matrix of every group on a mesh (axis name -> size): a function of its arguments alone.

    Axes that neither cut a group's matrices nor are named in `owners` (None: all are) share no work: devices that
    differ in their place along these alone do the same.
    """
    axes = tuple(mesh)
    flops = np.zeros(tuple(mesh.values()), np.int64)
    owned: dict[int, dict[tuple[int, ...], list[int]]] = {}
    for number in sorted(range(len(groups)), key=lambda number: (-groups[number].flops, number)):
        group = groups[number]
        domain = _domain(group, axes, owners)
        owned[number] = _place(group, domain, axes, flops)
    shares = (_share(group, owned[number], mesh, owners) for number, group in enumerate(groups))
    return Ownership(tuple(shares), flops)


def _domain(group: Group, axes: Sequence[str], owners: Collection[str] | None) -> tuple[str, ...]:
    """Mesh axes along which the owners of a group's matrices differ."""
    chosen = axes if owners is None else {*owners, *group.cut.exchanged}
    return tuple(axis for axis in axes if axis in chosen and axis not in group.cut.stack)


def _place(
    group: Group, domain: tuple[str, ...], axes: tuple[str, ...], flops: np.ndarray
) -> dict[tuple[int, ...], list[int]]:
    """The group's matrices by owner (its place along `domain`); adds their cost to `flops`. Of owners with equally
    little to do, the one with the fewest of the group takes the next: fewer places are sent empty."""
    elsewhere = tuple(axes.index(axis) for axis in axes if axis not in domain)
    owned: dict[tuple[int, ...], list[int]] = {place: [] for place in np.ndindex(flops.max(elsewhere).shape)}
    for number in range(group.count):
        load = flops.max(elsewhere)
        owner = min(owned, key=lambda place: (load[place], len(owned[place]), place))
        owned[owner].append(number)
        everywhere = tuple(owner[domain.index(axis)] if axis in domain else slice(None) for axis in axes)
        flops[everywhere] += group.flops
    return owned


def _share(
    group: Group,
    owned: Mapping[tuple[int, ...], list[int]],
    mesh: Mapping[str, int],
    owners: Collection[str] | None,
) -> Share:
    domain = _domain(group, tuple(mesh), owners)
    replicas = tuple(axis for axis in domain if axis not in group.cut.exchanged)
    order = [domain.index(axis) for axis in (*replicas, *group.cut.exchanged)]
    sizes = [mesh[domain[place]] for place in order]
    table = np.zeros((math.prod(sizes), max(map(len, owned.values()))), np.int32)
    counts = np.zeros(len(table), np.int32)
    for owner, place in enumerate(itertools.product(*(range(size) for size in sizes))):
        numbers = owned[tuple(place[order.index(axis)] for axis in range(len(domain)))]
        table[owner, : len(numbers)], counts[owner] = numbers, len(numbers)
    return Share(group, replicas, math.prod(mesh[axis] for axis in group.cut.exchanged), table, counts)
