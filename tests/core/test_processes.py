"""The roll call: everybody comes, with the same run in mind, or everybody is told who does not."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.processes import ProcessGroup, code_digest, roll_call, wait_for_all

SAME = {"config": "1f", "code": "2e"}


@pytest.fixture
def coordinator():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def call(coordinator, fingerprints, count, patience=20.0):
    """What `roll_call` says in a thread for each process of `fingerprints`, by index: its error or None."""
    said = {}

    def one(place, index, fingerprint):
        try:
            roll_call(ProcessGroup(coordinator, count, index, patience), fingerprint)
            said[place] = None
        except RunError as error:
            said[place] = str(error)

    threads = [threading.Thread(target=one, args=(place, *process)) for place, process in enumerate(fingerprints)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return said


def test_everybody_comes(coordinator):
    """In any order; the port is free again at once for what comes next."""
    for _ in range(2):
        assert call(coordinator, [(2, SAME), (0, SAME), (1, SAME)], 3) == {0: None, 1: None, 2: None}


def test_the_missing_are_named_to_all_who_came(coordinator):
    """Within the limit, not for ever; without process 0 nobody can say more than that."""
    said = call(coordinator, [(0, SAME), (2, SAME)], 4, patience=1.0)
    assert set(said.values()) == {"processes [1, 3] of 4 did not come within 1 s"}
    said = call(coordinator, [(1, SAME)], 2, patience=0.5)
    assert said[0].startswith("process 0 of 2") and "did not answer within 0.5 s" in said[0]


def test_a_process_with_another_run_in_mind_is_named(coordinator):
    """The first difference, to everybody: another config, another count, the same number twice."""
    said = call(coordinator, [(0, SAME), (1, SAME | {"config": "3d"})], 2)
    assert set(said.values()) == {"process 1: config: found 3d, expected 1f as process 0 has it"}
    twice = call(coordinator, [(0, SAME), (1, SAME), (1, SAME)], 4)
    assert set(twice.values()) == {"two processes call themselves number 1 of 4"}


def test_processes_that_found_each_other_agree_or_end(coordinator):
    """Two that JAX has brought together: with one fingerprint both go on; then one of them runs something else, and
    both say which and what."""
    script = """
import sys, jax
from wallwm_jax.core.errors import RunError
from wallwm_jax.core.processes import agree
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
try:
    agree({"config": sys.argv[3 + int(sys.argv[2])]}, 60.0)
    print("all the same")
except RunError as error:
    print(error)
"""
    for fingerprints, expected in (
        (("1f", "1f"), "all the same"),
        (("1f", "3d"), "process 1: config: found 3d, expected 1f as process 0 has it"),
    ):
        commands = [[sys.executable, "-c", script, coordinator, str(number), *fingerprints] for number in range(2)]
        pipes = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"JAX_PLATFORMS": "cpu"}}
        processes = [subprocess.Popen(command, **pipes) for command in commands]
        assert [process.communicate(timeout=120)[0].strip() for process in processes] == [expected] * 2


def test_who_does_not_come_where_others_wait_is_named(coordinator):
    """Within their patience, and not for good: the next time both come."""
    script = """
import sys
from wallwm_jax.core.errors import RunError
from wallwm_jax.core.processes import ProcessGroup, join, wait_for_all
number = int(sys.argv[2])
join(ProcessGroup(sys.argv[1], 2, number, 60.0), {"seed": "0"})
if number == 0:
    try:
        wait_for_all("the table", 0.5)
    except RunError as error:
        print(error)
wait_for_all("the door", 60.0)
print("together")
"""
    commands = [[sys.executable, "-c", script, coordinator, str(number)] for number in range(2)]
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"JAX_PLATFORMS": "cpu"}}
    processes = [subprocess.Popen(command, **pipes) for command in commands]
    first, second = (process.communicate(timeout=120)[0].splitlines() for process in processes)
    assert first == ["processes 1 of 2 did not come to 'the table' within 0.5 s", "together"]
    assert second == ["together"]


def test_strangers_do_not_matter(coordinator):
    """Somebody who connects and says something else, or nothing, is not taken for a process."""
    host, port = coordinator.split(":")
    said = {}
    thread = threading.Thread(target=lambda: said.update(call(coordinator, [(0, SAME)], 2)))
    thread.start()
    for message in (b"GET / HTTP/1.1\n", b"{}\n", b""):
        while True:
            try:
                with socket.create_connection((host, int(port)), 5) as connection:
                    connection.sendall(message)
                break
            except ConnectionRefusedError:
                pass
    assert call(coordinator, [(1, SAME)], 2) == {0: None}
    thread.join(60)
    assert said == {0: None}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (("here", 2, 0), "--coordinator: found 'here', expected HOST:PORT or 'auto'"),
        (("a:1", 0, 0), "--processes: found 0"),
        (("a:1", 2, 2), "--process: found 2, expected a number from 0 to 1"),
        (("a:1", 2, 1, 0.0), "--patience"),
    ],
)
def test_bad_groups_are_refused(values, match):
    """Each message names the option."""
    with pytest.raises(InputError, match=match):
        ProcessGroup(*values)


def test_one_process_waits_for_nobody():
    """And the code has a digest that says which code it is."""
    wait_for_all("anything", 0.1)
    assert len(code_digest()) == 64 and code_digest() == code_digest()
