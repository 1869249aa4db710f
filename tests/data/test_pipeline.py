"""The loader: exact resume with any number of workers, exact shares of several processes."""

import subprocess
import sys

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data.packing import POOL_BATCHES
from wallwm_jax.data.pipeline import EventLoader, cluster_balance, make_loader
from wallwm_jax.data.settings import LoaderSettings

SETTINGS = LoaderSettings(rows=4, text_length=24, anchor_jitter=0.3)


def assert_same(first: EventBatch, second: EventBatch) -> None:
    for name, a, b in zip(EventBatch._fields, first, second, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resume_is_exact(curated, workers):
    """Starting at step k gives batches k, k + 1, ... of the uninterrupted run, bit for bit, with every worker count.
    The steps cross the border between two pools."""
    start = POOL_BATCHES - 2
    uninterrupted = EventLoader(curated, SETTINGS, seed=11)
    resumed = list(make_loader(curated, SETTINGS, seed=11, start_step=start, num_steps=5, workers=workers))
    assert len(resumed) == 5
    for step, batch in enumerate(resumed, start=start):
        assert isinstance(batch, EventBatch)
        assert_same(batch, uninterrupted[step])


def test_resume_at_every_step_of_a_short_run(curated):
    """The batch of a step does not depend on where the run began, nor on the order in which steps are asked for."""
    whole = list(make_loader(curated, SETTINGS, seed=2, num_steps=6))
    for start in range(6):
        assert_same(next(make_loader(curated, SETTINGS, seed=2, start_step=start)), whole[start])
    backwards = EventLoader(curated, SETTINGS, seed=2)
    for step in reversed(range(6)):
        assert_same(backwards[step], whole[step])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_load_slices_of_the_single_process_batch(curated, processes):
    """Process p of P loads rows p B / P to (p + 1) B / P."""
    single = EventLoader(curated, SETTINGS, seed=4)
    shares = [
        EventLoader(curated, SETTINGS, seed=4, process_index=p, process_count=processes) for p in range(processes)
    ]
    for step in (0, POOL_BATCHES + 3):
        together = EventBatch(
            *(
                parts[0] if parts[0] is None else np.concatenate(parts)
                for parts in zip(*(share[step] for share in shares), strict=True)
            )
        )
        assert_same(together, single[step])


def test_rows_must_divide_over_processes(curated):
    """The message names the field and both numbers."""
    with pytest.raises(InputError, match=r"data\.rows: found 4, expected a multiple of the 3"):
        make_loader(curated, SETTINGS, seed=0, process_count=3)


def test_start_up_checks(curated):
    """An empty split and a caption that does not fit are refused before the first batch."""
    with pytest.raises(InputError, match="'validation'"):
        make_loader(curated, SETTINGS, seed=0, split="validation")
    with pytest.raises(InputError, match="text_length"):
        make_loader(curated, LoaderSettings(text_length=8), seed=0)


def test_packed_batches_keep_the_balance(curated):
    """Over four pools the packed events' clusters are as probable as the sampler says: packing skips at most a draw a
    pool. Chi-square against the 99.99 % quantile for three degrees of freedom, 21.1 (at most four clusters)."""
    loader = EventLoader(curated, SETTINGS, seed=1)
    pools = [loader.pool(number) for number in range(4)]
    rows = np.array([window.row for pool in pools for row in pool.rows for window in row])
    assert sum(pool.skipped for pool in pools) <= 4
    balance = cluster_balance(curated, SETTINGS)
    for name, shares in balance.items():
        _, labels = np.unique(curated.index.columns[name][rows], return_inverse=True)
        expected = np.asarray(shares["after"]) * len(rows)
        statistic = ((np.bincount(labels, minlength=len(expected)) - expected) ** 2 / expected).sum()
        assert len(expected) >= 3 and statistic < 21.1
        assert np.ptp(shares["after"]) < np.ptp(shares["before"]) / 10


def test_splits_do_not_mix(curated):
    """Training batches show training events, held-out ones held-out events."""
    for split in ("train", "heldout"):
        batch = EventLoader(curated, SETTINGS, seed=0, split=split)[0]
        rows = batch.event_rows[batch.segment_mask]
        assert set(curated.index.columns["split"][rows]) == {split}


@pytest.mark.parametrize("ending", ["batches.close()", "list(batches)"], ids=["stopped early", "to the end"])
def test_no_worker_is_left_behind(curated, ending):
    """A consumer with a worker process ends with exit code 0 and nothing to complain of, however far it reads."""
    code = (
        "from wallwm_jax.data.curated import CuratedDataset\n"
        "from wallwm_jax.data.pipeline import make_loader\n"
        "from wallwm_jax.data.settings import LoaderSettings\n"
        "if __name__ == '__main__':\n"
        f"    curated = CuratedDataset.open({str(curated.root)!r})\n"
        "    settings = LoaderSettings(rows=2, text_length=24)\n"
        "    batches = make_loader(curated, settings, seed=0, num_steps=4, workers=1)\n"
        "    next(batches), next(batches)\n"
        f"    {ending}\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "leaked" not in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_reading_curated_data_needs_no_jax(curated):
    """Everything but the Grain pipeline works without jax in the process."""
    code = (
        "import sys\n"
        "from wallwm_jax.data.curated import CuratedDataset\n"
        "from wallwm_jax.data.packing import event_batch\n"
        "from wallwm_jax.data.settings import LoaderSettings\n"
        "from wallwm_jax.data.curation import curate\n"
        f"event_batch(CuratedDataset.open({str(curated.root)!r}), [0], LoaderSettings(text_length=24))\n"
        "assert not {'jax', 'flax', 'torch', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
