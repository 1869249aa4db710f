"""The optimizer's state in the hosts' memory: the same training, and nothing of it on a device between steps."""

from types import SimpleNamespace
from unittest.mock import Mock

import jax
import pytest
from jax.sharding import Mesh

from tests.train.test_fit import Interruption, Silent
from tests.train.toy import toy_data, toy_run, toy_start
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import HOST_MEMORY, check_host_memory
from wallwm_jax.core.trees import digest
from wallwm_jax.train.fit import fit


def kinds(tree):
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)}


def test_an_offloaded_run_has_the_same_bits(tmp_path):
    """Muon and AdamW of the toy, cut off and resumed from a checkpoint: state, average and moments of a run that
    offloads nothing; all of the optimizer's state, and nothing else, ends in the hosts' memory."""
    plain = fit(toy_run(tmp_path / "plain"), toy_start(), toy_data(), Silent())
    run = toy_run(tmp_path / "offloaded", offload_optimizer=True)
    with pytest.raises(Interruption):
        fit(run, toy_start(), toy_data(), Silent(8))
    found = fit(run, toy_start(), toy_data(), Silent())
    assert kinds(found.optimizer_state) == {HOST_MEMORY} and HOST_MEMORY not in kinds(plain)
    assert HOST_MEMORY not in kinds(found._replace(optimizer_state=()))
    assert digest(found) == digest(plain)


def test_a_backend_without_such_memory_is_refused():
    """Naming what there is instead; the CPU has it."""
    kind = SimpleNamespace(kind="device")
    device = SimpleNamespace(platform="metal", addressable_memories=lambda: [kind])
    with pytest.raises(InputError, match=r"offload_optimizer: found True, expected .*'pinned_host'.*metal has"):
        check_host_memory(Mock(spec=Mesh, local_devices=[device]))
    check_host_memory(jax.make_mesh((1,), ("data",)))
