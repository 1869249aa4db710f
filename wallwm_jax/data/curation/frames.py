"""Decoding a dataset's videos once into arrays that can be memory-mapped."""

import concurrent.futures
import pathlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from wallwm_jax.data.curated import frames_path
from wallwm_jax.data.episodes.lerobot import LeRobotDataset
from wallwm_jax.data.episodes.video import decode_spans

BLACK = 8
"""A border row is synthetic black if no pixel of it ever exceeds this; lossy codecs leave a little noise."""


def decode_episodes(
    dataset: LeRobotDataset,
    positions: Sequence[int],
    root: pathlib.Path,
    threads: int,
    progress: Callable[[str, int, int], None],
) -> dict[int, UInt8[np.ndarray, "_ V H W 3"]]:
    """Writes root/frames/episode_*.npy and returns the open maps by episode number.

    Each video file is decoded once, front to back, in a thread of its own (decoding releases the interpreter lock).
    Raises InputError as `decode_spans` does.
    """
    views = dataset.embodiment.views
    (root / "frames").mkdir()
    maps = {}
    by_file = defaultdict(list)
    for position in positions:
        record = dataset.records[position]
        shape = (record.length, len(views), *dataset.info.image_shape)
        path = frames_path(root, record.index)
        maps[record.index] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        for number, view in enumerate(views):
            file, span = record.videos[view]
            by_file[file].append((span, maps[record.index][:, number]))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        fps = dataset.info.fps
        jobs = [pool.submit(decode_spans, file, *zip(*parts, strict=True), fps) for file, parts in by_file.items()]
        try:
            for done, job in enumerate(concurrent.futures.as_completed(jobs), start=1):
                job.result()
                progress("decode", done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return maps


def black_borders(frames: UInt8[np.ndarray, "T V H W 3"], every: int = 4) -> Int[np.ndarray, "V 4"]:
    """Rows and columns at the top, bottom, left and right of each view that stay black for the whole episode.

    Looks at every `every`-th frame. A view that is black throughout counts as all border.
    """
    brightest = frames[::every].max(axis=0).max(axis=-1) > BLACK  # in this order: the first runs along memory
    height, width = brightest.shape[1:]
    result = np.empty((len(brightest), 4), np.int32)
    for view, lit in enumerate(brightest):
        rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
        if rows.size:
            result[view] = rows[0], height - 1 - rows[-1], columns[0], width - 1 - columns[-1]
        else:
            result[view] = height, 0, width, 0
    return result
