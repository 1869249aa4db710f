"""Several processes of one run: calling the roll, joining, and waiting for each other with a limit.

`jax.distributed` aborts a process whose companions do not come, without a word on who is missing, and never asks
whether all of them run the same thing. The roll call before it does both, over the same port.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax

from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.message_board import coordinator_client

AUTO = "auto"
PATIENCE = 300.0
"""Seconds that processes wait for each other, unless told otherwise."""
_PAUSE = 0.1
_STRANGER = 5.0
"""Seconds after which somebody who has connected and says nothing is none of ours."""


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """Process `index` of the `count` of a run. `coordinator` is HOST:PORT of process 0, as all can reach it; or "auto"
    where JAX finds out all three (Cloud TPU, GKE, Slurm), and then count and index say nothing."""

    coordinator: str
    count: int = 1
    index: int = 0
    patience: float = PATIENCE

    def __post_init__(self):
        if self.coordinator != AUTO and not re.fullmatch(r"[^:]+:\d+", self.coordinator):
            raise InputError("--coordinator", repr(self.coordinator), f"HOST:PORT or {AUTO!r}")
        if self.count < 1:
            raise InputError("--processes", self.count, "at least 1")
        if not 0 <= self.index < self.count:
            raise InputError("--process", self.index, f"a number from 0 to {self.count - 1}")
        if self.patience <= 0:
            raise InputError("--patience", self.patience, "a positive number of seconds")

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.coordinator.split(":")
        return host, int(port)


def join(group: ProcessGroup, fingerprint: Mapping[str, str]) -> None:
    """Makes this process one of the group's: `jax.devices()` are those of all of them from here on. Must come before
    anything else asks JAX for devices.

    Raises RunError as `roll_call` does; where JAX finds the others, as `agree` does (it ends a process whose companions
    do not come).
    """
    patience = max(int(group.patience), 1)
    if group.coordinator == AUTO:
        jax.distributed.initialize(initialization_timeout=patience, shutdown_timeout_seconds=patience)
        agree(fingerprint, group.patience)
        return
    roll_call(group, fingerprint)
    jax.distributed.initialize(
        group.coordinator,
        group.count,
        group.index,
        initialization_timeout=patience,
        shutdown_timeout_seconds=patience,  # a process that fails waits so long for the others, then all end
    )


def roll_call(group: ProcessGroup, fingerprint: Mapping[str, str]) -> None:
    """Returns when every process of the group has called, with the fingerprint that process 0 has.

    Raises RunError, in every process that has come, naming those that are missing after `patience` seconds, or the
    first that differs and in what.
    """
    deadline = time.monotonic() + group.patience
    if group.index:
        _answer(group, fingerprint, deadline)
        return
    with socket.create_server(("", group.address[1])) as server:
        called: dict[int, socket.socket] = {}
        try:
            error = _collect(server, group, fingerprint, deadline, called)
            for connection in called.values():
                _send(connection, {"error": error})
        finally:
            for connection in called.values():
                connection.close()
    if error:
        raise RunError(error)


def wait_for_all(name: str, patience: float = PATIENCE) -> None:
    """Returns when every process has called this with the same name; raises RunError naming those that have not within
    `patience` seconds. A run of one process does not wait."""
    if jax.process_count() == 1:
        return
    try:
        coordinator_client().wait_at_barrier(name, int(1000 * patience))
    except jax.errors.JaxRuntimeError as error:
        missing = re.search(r"timed out task names:\s*([\d\s,]+)", str(error))
        who = "processes {}".format(", ".join(missing[1].split())) if missing else "some process"
        text = f"{who} of {jax.process_count()} did not come to {name!r} within {patience:g} s"
        raise RunError(text) from error


def agree(fingerprint: Mapping[str, str], patience: float = PATIENCE) -> None:
    """Returns when all processes, which have found each other, have the fingerprint of process 0; raises RunError in
    all of them, naming the first that differs and in what, or that has not said its own within `patience` seconds."""
    client, key, count = coordinator_client(), "wallwm_fingerprint/{}", jax.process_count()
    client.key_value_set(key.format(jax.process_index()), json.dumps(dict(fingerprint)))
    said, deadline = [], time.monotonic() + patience
    for number in range(count):
        try:
            left = max(int(1000 * (deadline - time.monotonic())), 1)
            said.append(json.loads(client.blocking_key_value_get(key.format(number), left)))
        except jax.errors.JaxRuntimeError as error:
            raise RunError(f"process {number} of {count} did not say what it runs within {patience:g} s") from error
        if difference := _fingerprint_difference(said[-1], said[0]):
            raise RunError(f"process {number}: {difference}")


def code_digest() -> str:
    """SHA-256 over the source files of this package."""
    root, total = pathlib.Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _collect(
    server: socket.socket,
    group: ProcessGroup,
    fingerprint: Mapping[str, str],
    deadline: float,
    called: dict[int, socket.socket],
) -> str | None:
    """Fills `called` with the processes that call; what is wrong with them, or None."""
    while len(called) < group.count - 1:
        server.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            connection, _ = server.accept()
        except TimeoutError:
            missing = sorted(set(range(1, group.count)) - set(called))
            return f"processes {missing} of {group.count} did not come within {group.patience:g} s"
        connection.settimeout(_STRANGER)
        said = _receive(connection)
        if said is None:
            connection.close()
            continue
        number = said["index"]
        taken = number in called
        called[len(called) + group.count if taken else number] = connection
        if taken:
            return f"two processes call themselves number {number} of {group.count}"
        if difference := _difference(said, fingerprint, group):
            return f"process {number}: {difference}"
    return None


def _answer(group: ProcessGroup, fingerprint: Mapping[str, str], deadline: float) -> None:
    """Calls process 0 until it listens, and raises RunError if it finds something wrong or does not answer."""
    silent = f"process 0 of {group.count}, at {group.coordinator}, did not answer within {group.patience:g} s"
    while True:
        try:
            connection = socket.create_connection(group.address, max(deadline - time.monotonic(), 0.001))
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(silent) from error
            time.sleep(_PAUSE)
    with connection:
        connection.settimeout(max(deadline - time.monotonic(), 0.001) + 1.0)  # it may use all of its own patience
        _send(connection, {"index": group.index, "count": group.count, "fingerprint": dict(fingerprint)})
        said = _receive(connection)
    if said is None or said["error"]:
        raise RunError(silent if said is None else said["error"])


def _difference(said: Mapping[str, Any], fingerprint: Mapping[str, str], group: ProcessGroup) -> str | None:
    if said["count"] != group.count:
        return f"count of processes: found {said['count']}, expected {group.count}"
    return _fingerprint_difference(said["fingerprint"], fingerprint)


def _fingerprint_difference(said: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    for name in sorted({*said, *expected}):
        if said.get(name) != expected.get(name):
            return f"{name}: found {said.get(name)}, expected {expected.get(name)} as process 0 has it"
    return None


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """The message that the other side sends; None if it is none of ours."""
    try:
        message = json.loads(connection.makefile("rb").readline())
    except (ValueError, OSError):
        return None
    return message if isinstance(message, dict) and {"index", "error"} & set(message) else None
