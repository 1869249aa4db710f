"""A thread that keeps the next batches on the mesh while the current step computes."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding


def to_mesh(batch: Any, sharding: NamedSharding) -> Any:
    """This process's rows of a batch as global arrays."""
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)


class Prefetcher:
    """Iterates over `batches`, at most `depth` ahead; an error in the source is raised at the batch it belongs to.

    Order is the source's order: reading ahead changes nothing but time. A context manager, so that the thread ends
    with the loop, however it ends.
    """

    def __init__(self, batches: Iterable[Any], sharding: NamedSharding, depth: int = 2):
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(iter(batches), sharding), daemon=True)

    def __enter__(self) -> Iterator[Any]:
        self._thread.start()
        return self._take()

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _take(self) -> Iterator[Any]:
        while True:
            kind, value = self._queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    def _fill(self, batches: Iterator[Any], sharding: NamedSharding) -> None:
        try:
            for batch in batches:
                if not self._put(("batch", to_mesh(batch, sharding))):
                    return
            self._put(("end", None))
        except Exception as error:
            self._put(("error", error))
        finally:
            if hasattr(batches, "close"):  # a generator, which may hold worker processes
                batches.close()

    def _put(self, item: tuple[str, Any]) -> bool:
        """False once the consumer has gone."""
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
