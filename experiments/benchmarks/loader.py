"""How fast packed batches come out of the loader, on the sample.

    python experiments/benchmarks/loader.py [--config experiments/tabletop.py:demo] [--workers 0]

The last line is one JSON object.
"""

import argparse
import json
import pathlib
import tempfile
import time

from wallwm_jax.core.config import load
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.curation.curate import curate
from wallwm_jax.data.pipeline import EventLoader, make_loader
from wallwm_jax.data.settings import LoaderSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="experiments/tabletop.py:demo")
    parser.add_argument("--workers", type=int, default=0, help="Grain worker processes; 0 is prefetching threads")
    parser.add_argument("--batches", type=int, default=200)
    options = parser.parse_args()
    config = load(options.config)
    settings = LoaderSettings.from_config(config.data)
    with tempfile.TemporaryDirectory() as folder:
        curated = pathlib.Path(folder) / "curated"
        started = time.monotonic()
        curate(config.dataset.root, curated, config.dataset.embodiment)
        curation_s = time.monotonic() - started
        dataset = CuratedDataset.open(curated)
        batches = make_loader(dataset, settings, seed=config.seed, workers=options.workers)
        next(batches)
        events, started = 0, time.monotonic()
        for _ in range(options.batches):
            events += int(next(batches).segment_mask.sum())
        seconds = time.monotonic() - started
        pool = EventLoader(dataset, settings, seed=config.seed).pool(0)
    result = {
        "events_per_s": round(events / seconds, 1),
        "batches_per_s": round(options.batches / seconds, 1),
        "packing_efficiency": round(pool.efficiency(settings.row_frames), 4),
        "curation_s": round(curation_s, 1),
        "workers": options.workers,
        "rows": settings.rows,
        "row_frames": settings.row_frames,
        "views": len(dataset.views),
        "pixels": list(dataset.image_shape),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
