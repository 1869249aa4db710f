"""The Grain pipeline: element i of its source is the whole packed batch of step i.

Grain supplies order, threads and worker processes; since a batch is a function of (seed, step), resuming needs a step
number and works with any number of workers and hosts.
"""

import itertools
from collections.abc import Iterator
from typing import Protocol, TypeVar, runtime_checkable

import grain
import numpy as np
from absl import flags

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.index import EventIndex
from wallwm_jax.data.curation.window_index import WindowIndex
from wallwm_jax.data.packing import POOL_BATCHES, Pool, make_pool, pack
from wallwm_jax.data.resolutions import resolution_of
from wallwm_jax.data.sampling import EventSampler, Weighted, balanced_weights, cluster_marginals
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.data.windows import check_captions

CLUSTERINGS = ("vision_language_cluster", "action_cluster")
_ENDLESS = 2**31
Batch = TypeVar("Batch", bound=tuple)
"""A named tuple of arrays."""


class EventLoader:
    """Random access to the batches of a split: `loader[step]` is this process's rows of batch `step`, [B / P, ...].
    Its pictures have one of the settings' resolutions, the same in every process."""

    def __init__(
        self,
        curated: CuratedDataset,
        settings: LoaderSettings,
        *,
        seed: int,
        split: str = "train",
        process_index: int = 0,
        process_count: int = 1,
    ):
        if settings.rows % process_count:
            raise InputError("data.rows", settings.rows, f"a multiple of the {process_count} processes")
        self.curated, self.settings, self.split, self._seed = curated, settings, split, seed
        share = settings.rows // process_count
        self._rows = slice(process_index * share, (process_index + 1) * share)
        self.sampler = make_sampler(curated, settings, seed, split)
        check_captions(curated, split, settings)
        self._pools: dict[int, Pool] = {}

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> EventBatch:
        number, batch = divmod(int(step), POOL_BATCHES)
        first = batch * self.settings.rows
        rows = self.pool(number).rows[first : first + self.settings.rows]
        picture = resolution_of(int(step), self._seed, self.settings.resolutions, self.curated.image_shape)
        return pack(self.curated, rows[self._rows], self.settings, picture)

    def pool(self, number: int) -> Pool:
        """The packing that batches `number * POOL_BATCHES` and on are cut from; the last few are kept."""
        pool = self._pools.get(number)
        if pool is None:
            pool = make_pool(self.curated, self.sampler, self.settings, number)
            self._pools = {**dict(list(self._pools.items())[-2:]), number: pool}
        return pool


def make_sampler(curated: CuratedDataset, settings: LoaderSettings, seed: int, split: str) -> EventSampler:
    """Sampler over the action rows of a split, and over its windows if the settings have a history; each balanced over
    both its clusterings if they say so."""
    events = _weighted(curated, "events", curated.index, settings, split)
    if settings.history is None:
        return EventSampler(events.rows, events.probabilities, seed)
    windows = curated.windows(settings)
    observations = _weighted(curated, "windows", windows, settings, split)
    return EventSampler(events.rows, events.probabilities, seed, observations, settings.history.share)


def _weighted(
    curated: CuratedDataset, kind: str, index: EventIndex | WindowIndex, settings: LoaderSettings, split: str
) -> Weighted:
    rows = index.select(split)
    if not rows.size:
        raise InputError(f"{curated.root}: {kind} of split {split!r}", "none", "at least one")
    labels = [index.columns[name][rows] for name in CLUSTERINGS]
    return Weighted(rows, balanced_weights(*labels) if settings.balance else np.full(len(rows), 1.0 / len(rows)))


def make_loader(
    curated: CuratedDataset,
    settings: LoaderSettings,
    *,
    seed: int,
    split: str = "train",
    start_step: int = 0,
    num_steps: int | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[EventBatch]:
    """Batches of steps `start_step`, `start_step + 1`, ... as numpy arrays; endless if `num_steps` is None.

    The sequence is the same for every number of `workers` (0: prefetching threads in this process). Raises InputError
    if the split is empty, a caption is too long, or the rows do not divide over the processes.
    """
    loader = EventLoader(
        curated, settings, seed=seed, split=split, process_index=process_index, process_count=process_count
    )
    return batches_of(loader, start_step, num_steps, workers)


@runtime_checkable
class BatchLoader(Protocol[Batch]):
    """Random access to endless batches."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> Batch: ...


def batches_of(
    loader: BatchLoader[Batch], start_step: int = 0, num_steps: int | None = None, workers: int = 0
) -> Iterator[Batch]:
    """Batches `start_step`, `start_step + 1`, ... of any loader whose batch is a function of the step."""
    steps = grain.MapDataset.source(loader).slice(slice(start_step, _ENDLESS))
    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    batches = steps.to_iter_dataset(read_options=threads)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags even where no absl app was started
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1))
    return _closing(batches, num_steps, copy=workers > 0)


def _closing(batches: grain.IterDataset, count: int | None, copy: bool) -> Iterator[Batch]:
    """The first `count` batches, or all. Closes the iterator at the end: it ends the workers and their shared memory,
    out of which `copy` takes each batch, since that memory is scarce and must not outlive the workers."""
    iterator = iter(batches)
    try:
        yield from itertools.islice(map(_owned, iterator) if copy else iterator, count)
    finally:
        iterator.close()


def _owned(batch: Batch) -> Batch:
    return type(batch)(*(None if array is None else np.array(array) for array in batch))


def cluster_balance(
    curated: CuratedDataset, settings: LoaderSettings, split: str = "train"
) -> dict[str, dict[str, list[float]]]:
    """Share of each cluster before (in the index) and after balancing (in the draws), by clustering."""
    sampler = make_sampler(curated, settings, 0, split)
    even = np.full(len(sampler.rows), 1.0 / len(sampler.rows))
    result = {}
    for name in CLUSTERINGS:
        labels = curated.index.columns[name][sampler.rows]
        shares = {"before": even, "after": sampler.probabilities}
        result[name] = {key: cluster_marginals(labels, value).tolist() for key, value in shares.items()}
    return result
