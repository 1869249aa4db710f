"""Decoding video files: in one pass for a whole file, or by seeking for a few frames. PyAV only."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from wallwm_jax.core.errors import InputError


class Span(NamedTuple):
    """Where an episode lies in a video file: its first frame's number in the file, and how many frames it has."""

    first: int
    count: int


def decode_spans(
    path: pathlib.Path, spans: Sequence[Span], sinks: Sequence[UInt8[np.ndarray, "_ H W 3"]], fps: float
) -> None:
    """Decodes a file once from front to back and writes the frames of span i to `sinks[i]`.

    Raises InputError naming the file if it is missing, unreadable, of another size, or ends before a span is complete.
    """
    order = sorted(range(len(spans)), key=lambda i: spans[i].first)
    written = [0] * len(spans)
    position = 0
    for number, image in _decoded(path, fps, first=0):
        while position < len(order) and number >= sum(spans[order[position]]):
            position += 1
        if position == len(order):
            break
        span = spans[order[position]]
        if number < span.first:
            continue
        sink = sinks[order[position]]
        if image.shape != sink.shape[1:]:
            raise InputError(f"{path}: image size", image.shape[:2], sink.shape[1:3])
        sink[number - span.first] = image
        written[order[position]] += 1
    for span, count in zip(spans, written, strict=True):
        _check_complete(path, span, count)


def decode_frames(path: pathlib.Path, span: Span, indices: Sequence[int], fps: float) -> UInt8[np.ndarray, "n H W 3"]:
    """Frames `indices` of a span, in the order asked for (repeats allowed)."""
    wanted = {span.first + int(index) for index in indices}
    images = {}
    for number, image in _decoded(path, fps, first=min(wanted), only=wanted):
        images[number] = image
        if number >= max(wanted):
            break
    if len(images) < len(wanted):
        _check_complete(path, span, min(wanted - set(images)) - span.first)
    return np.stack([images[span.first + int(index)] for index in indices])


def _check_complete(path: pathlib.Path, span: Span, count: int) -> None:
    if count != span.count:
        found = f"{count} frames from frame {span.first} on"
        raise InputError(f"{path}: length", found, f"{span.count} frames (truncated or damaged video)")


def _decoded(
    path: pathlib.Path, fps: float, first: int, only: Iterable[int] | None = None
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """(frame number, RGB image) of the frames in `only` (or of all) from `first` on."""
    if not path.is_file():
        raise InputError(str(path), "no file", "a video file")
    reformatter = VideoReformatter()  # one for all frames: its scaling context costs more than a small frame does
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # callers decode several files at once
            if first > 0:
                container.seek(int(first / fps / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                number = round(float(frame.pts * stream.time_base) * fps)
                if number >= first and (only is None or number in only):
                    yield number, reformatter.reformat(frame, format="rgb24").to_ndarray()
    except av.error.FFmpegError as error:
        raise InputError(str(path), f"unreadable video ({error.strerror or error})", "a complete video file") from error
