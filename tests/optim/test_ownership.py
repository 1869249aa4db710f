"""Who orthogonalises what: every matrix once, evenly, and nothing sent in vain that need not be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallwm_jax.optim.muon import MuonSettings
from wallwm_jax.optim.ownership import Cut, Group, assign

CUTS = [
    Cut(),
    Cut(("fsdp",), ("tensor",)),
    Cut(("tensor",), ("fsdp",)),
    Cut((), ("fsdp", "sequence")),
    Cut((), (), ("tensor",)),
]
MESHES = [
    {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1},
    {"data": 2, "fsdp": 3, "sequence": 1, "tensor": 2},
    {"data": 2, "fsdp": 1, "sequence": 2, "tensor": 2},
]

DIRECT = MuonSettings()


def group_of(m, k, cut, count, settings=DIRECT):
    return Group(m, k, cut, count, settings.flops(m, k, settings.coefficients))


groups = st.lists(
    st.builds(group_of, st.sampled_from([8, 24]), st.sampled_from([24, 60]), st.sampled_from(CUTS), st.integers(1, 17)),
    min_size=1,
    max_size=4,
    unique_by=lambda group: (group.m, group.k, group.cut),
)


@given(groups, st.sampled_from(MESHES))
def test_every_matrix_has_one_owner_and_finds_its_way_back(chosen, mesh):
    """The tables hold each matrix of a group once; `returned` names, for each, the place where its owner has put it;
    the operations are those of all matrices; and unless a stack is cut, whose parts bind several devices at a time, no
    device is more than one matrix above the least busy."""
    ownership = assign(chosen, mesh)
    for group, share in zip(chosen, ownership.shares, strict=True):
        owned = [number for row, count in zip(share.table, share.counts, strict=True) for number in row[:count]]
        assert sorted(owned) == list(range(group.count))
        assert len(share.table) * math.prod(mesh[axis] for axis in group.cut.stack) == math.prod(mesh.values())
        kept, inverse = share.returned
        places = share.table.reshape(len(kept), -1)
        found = np.stack([row[chosen] for row, chosen in zip(places, kept, strict=True)]).reshape(-1)
        np.testing.assert_array_equal(found[inverse], np.arange(group.count))
    costs = [group.flops for group in chosen]
    parts = [math.prod(mesh[axis] for axis in group.cut.stack) for group in chosen]
    total = sum(cost * group.count * part for cost, group, part in zip(costs, chosen, parts, strict=True))
    assert ownership.flops.sum() == total
    if set(parts) == {1}:
        assert ownership.flops.max() - ownership.flops.min() <= max(costs)


@pytest.mark.parametrize(("data", "fsdp", "most"), [(1, 8, 1.07), (4, 16, 1.1)])
def test_a_large_transformer_is_shared_evenly(data, fsdp, most):
    """The matrices of the 5B video tower: nobody has more than 1.07 of an even share of the operations on 8 devices,
    1.1 on 64; and the all-to-alls carry no more than two and a half times what must be carried."""
    tower = [
        group_of(3072, k, Cut(("fsdp",)), count, MuonSettings(iteration="cheapest", products="bfloat16"))
        for k, count in ((3072, 362), (14336, 60), (4096, 1), (27648, 1))
    ]
    mesh = {"data": data, "fsdp": fsdp, "sequence": 1, "tensor": 1}
    ownership = assign(tower, mesh)
    assert 1.0 <= ownership.balance <= most
    assert 1.0 <= ownership.padding <= 2.5


def test_work_is_shared_along_the_axes_that_are_named():
    """With owners along "fsdp" alone, devices that differ in "data" do the same; an axis that cuts a matrix shares its
    work anyway."""
    mesh = {"data": 2, "fsdp": 4}
    whole = group_of(8, 24, Cut(), 8)
    ownership = assign([whole], mesh, owners=("fsdp",))
    (share,) = ownership.shares
    assert share.replicas == ("fsdp",) and (share.counts == 2).all() and len(share.counts) == 4
    assert (ownership.flops == 2 * whole.flops).all()
    (cut,) = assign([group_of(8, 24, Cut(("data",)), 8)], mesh, owners=("fsdp",)).shares
    assert cut.replicas == ("fsdp",) and len(cut.counts) == 8 and (cut.counts == 1).all()
    (cut,) = assign([group_of(8, 24, Cut(("data",)), 8)], mesh, owners=()).shares
    assert cut.replicas == () and (cut.counts == 4).all()
