"""Short texts between the processes of a run, on the host: no device takes part, and no training waits for them."""

import json
import pathlib
import socket
from collections.abc import Callable
from typing import Any

import jax

from wallwm_jax.core.errors import RunError

PATIENCE = 3600.0
"""Seconds that processes wait for a text of one that may have many files to read which the others do not read."""


class MessageBoard:
    """Short texts (up to some megabytes each) that the processes of a run leave for each other, kept by process 0's
    coordinator. Names are paths; a name that is taken is an error of JAX's."""

    def __init__(self):
        self.index, self.count, self._client = jax.process_index(), jax.process_count(), coordinator_client()

    def write(self, name: str, text: str) -> None:
        self._client.key_value_set(name, text)

    def read(self, folder: str) -> dict[str, str]:
        """All texts that were left under `<folder>/...`, by the rest of their names."""
        found = self._client.key_value_dir_get(f"{folder}/")
        return {name.partition(f"{folder}/")[2]: text for name, text in found}

    def wait(self, name: str, patience: float = PATIENCE) -> str:
        """The text of that name; raises RunError if nobody has left it within `patience` seconds."""
        try:
            return self._client.blocking_key_value_get(name, int(1000 * patience))
        except jax.errors.JaxRuntimeError as error:
            raise RunError(f"no process has said {name!r} within {patience:g} s") from error

    def collect(self, folder: str, patience: float = PATIENCE) -> list[str]:
        """The texts that all processes leave under `<folder>/<their number>`, in order, which are then taken away."""
        texts = [self.wait(f"{folder}/{index}", patience) for index in range(self.count)]
        self._client.key_value_delete(f"{folder}/")
        return texts

    def decide(self, name: str, text: str, decision: Callable[[list[str]], str]) -> str:
        """What process 0 makes of the texts that all processes bring, in order; the same to all of them. Every process
        must come here with the same names in the same order."""
        visit = len(self.read(f"{name}/decided"))  # all earlier ones are there, and this one waits for our own text
        self.write(f"{name}/{visit}/{self.index}", text)
        if self.index == 0:
            self.write(f"{name}/decided/{visit}", decision(self.collect(f"{name}/{visit}")))
        return self.wait(f"{name}/decided/{visit}")

    def neighbours(self) -> list[int]:
        """The numbers of the processes on this machine, in order, this one among them."""
        machines = self.decide("wallwm_machines", _machine(), json.dumps)
        return [index for index, machine in enumerate(json.loads(machines)) if machine == _machine()]


def message_board() -> MessageBoard | None:
    """The board of a run of several processes; None for one that is alone."""
    return MessageBoard() if jax.process_count() > 1 else None


def coordinator_client() -> Any:
    """What JAX has brought the processes of a run together with."""
    # It has no public name; Orbax takes it from here too.
    from jax._src import distributed

    return distributed.global_state.client


def _machine() -> str:
    """A text that all processes of a machine, and no others, have in common; those of two containers may differ."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.is_file() else ''}"
