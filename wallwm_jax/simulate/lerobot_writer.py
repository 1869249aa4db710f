"""Writes recordings as a LeRobot v3.0 dataset with pyarrow and PyAV.

Every episode is first staged in a folder of its own (one small video a view, the numbers, its metadata), so that a
killed run can go on and several processes can record; `assemble` then joins the staged episodes without encoding
anything again. Same recordings in, same bytes out.
"""

import io
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate.recording import CONTROL_HZ, STATE_NAMES, Recording

CRF, GROUP_OF_PICTURES = 24, 24
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_NUMBERS = ("state", "action", "intrinsics", "extrinsics")


def video_key(view: str) -> str:
    """The feature that holds a view's video."""
    return f"observation.images.{view}"


def stage_episode(recording: Recording, folder: pathlib.Path, split: str) -> None:
    """Writes one recording to a folder, whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for index, view in enumerate(recording.views):
        (part / f"{view}.mp4").write_bytes(encode_video(recording.frames[:, index]))
    np.savez_compressed(part / "numbers.npz", **{name: getattr(recording, name) for name in _NUMBERS})
    pixels = recording.frames.astype(np.float64) / 255.0
    events = [
        {
            "start": event.start,
            "end": event.end,
            "caption": event.caption,
            "verb": event.verb,
            "object": event.object,
            "target": event.target,
            "recovery": bool(recovery),
        }
        for event, recovery in zip(recording.events, recording.recovery, strict=True)
    ]
    metadata = {
        "seed": recording.seed,
        "program": recording.program,
        "task": recording.task,
        "split": split,
        "length": len(recording.state),
        "events": events,
        "views": list(recording.views),
        "size": list(recording.frames.shape[2:4]),
        "image_mean": pixels.mean((0, 2, 3)).tolist(),
        "image_square": (pixels**2).mean((0, 2, 3)).tolist(),
        "image_min": pixels.min((0, 2, 3)).tolist(),
        "image_max": pixels.max((0, 2, 3)).tolist(),
    }
    (part / "episode.json").write_text(json.dumps(metadata, indent=1))
    os.replace(part, folder)


def encode_video(frames: UInt8[np.ndarray, "T H W 3"]) -> bytes:
    """H.264 in MP4 at the control rate: no B-frames, short groups of pictures so that windows decode fast, one
    encoder thread so that the bytes depend on the frames alone."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {
            "crf": str(CRF),
            "preset": "slow",
            "g": str(GROUP_OF_PICTURES),
            "bf": "0",
            "threads": "1",
            "sc_threshold": "0",
        }
        stream = container.add_stream("libx264", rate=int(CONTROL_HZ), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def assemble(
    folders: Sequence[pathlib.Path], output: pathlib.Path, embodiment: str, files: Mapping[str, str] | None = None
) -> None:
    """Joins staged episodes, in the order given, into a dataset at `output`, whole or not at all.

    Args:
        files: further text files of the dataset, by their path in it (below meta/ or data/).

    Raises:
        InputError: there is no episode, or `output` already holds a dataset.
    """
    if not folders:
        raise InputError("episodes", 0, "at least one recorded episode")
    if (output / "meta" / "info.json").exists():
        raise InputError(str(output), "a dataset", "a path that holds none")
    part = output.with_name(output.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for name in ("meta/episodes/chunk-000", "data/chunk-000"):
        (part / name).mkdir(parents=True)
    episodes = [json.loads((folder / "episode.json").read_text()) for folder in folders]
    numbers = [dict(np.load(folder / "numbers.npz")) for folder in folders]
    views = episodes[0]["views"]
    for view in views:
        _join_videos(
            [folder / f"{view}.mp4" for folder in folders],
            part / VIDEO_PATH.format(video_key=video_key(view), chunk_index=0, file_index=0),
        )
    tasks = sorted({episode["task"] for episode in episodes})
    subtasks = sorted({event["caption"] for episode in episodes for event in episode["events"]})
    _write_strings(part / "meta/tasks.parquet", "task", tasks)
    _write_strings(part / "meta/subtasks.parquet", "subtask", subtasks)
    _write_frames(part / DATA_PATH.format(chunk_index=0, file_index=0), episodes, numbers, tasks, subtasks)
    pq.write_table(_episode_table(episodes, views), part / "meta/episodes/chunk-000/file-000.parquet")
    _write_json(part / "meta/stats.json", _statistics(episodes, numbers, views))
    _write_json(part / "meta/info.json", _information(episodes, tasks, views, embodiment))
    for path, text in (files or {}).items():
        (part / path).write_text(text, encoding="utf-8")
    _publish(part, output)


def _publish(part: pathlib.Path, output: pathlib.Path) -> None:
    """Moves the finished dataset into place; files beside it (a README) stay. `meta` goes last: it makes a dataset."""
    output.mkdir(parents=True, exist_ok=True)
    for name in ("data", "videos", "meta"):
        shutil.rmtree(output / name, ignore_errors=True)
        os.replace(part / name, output / name)
    part.rmdir()


def _join_videos(paths: Sequence[pathlib.Path], output: pathlib.Path) -> None:
    """Concatenates videos of one encoder setting packet by packet; each starts with a key frame."""
    output.parent.mkdir(parents=True)
    offset = 0
    with av.open(str(output), "w") as target:
        stream = None
        for path in paths:
            with av.open(str(path)) as source:
                template = source.streams.video[0]
                stream = stream or target.add_stream_from_template(template)
                tick = int(Fraction(1, int(CONTROL_HZ)) / template.time_base)
                count = 0
                for packet in source.demux(template):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset * tick, packet.dts + offset * tick
                    packet.stream = stream
                    target.mux(packet)
                    count += 1
                offset += count


def _write_strings(path: pathlib.Path, name: str, values: Sequence[str]) -> None:
    """A table of (index, string) whose pandas index is the string, as LeRobot reads it."""
    columns = [
        {
            "name": f"{name}_index",
            "field_name": f"{name}_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": name, "field_name": name, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    metadata = {"index_columns": [name], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({f"{name}_index": pa.array(range(len(values)), pa.int64()), name: pa.array(values, pa.string())})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(metadata)}), path)


def _fixed(values: np.ndarray) -> pa.Array:
    """[T, ...] as one fixed-size list of float32 a frame."""
    rows = np.ascontiguousarray(values, np.float32).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _write_frames(
    path: pathlib.Path, episodes: Sequence[dict], numbers: Sequence[dict], tasks: Sequence[str], subtasks: Sequence[str]
) -> None:
    """The per-frame table: one row group an episode."""
    writer, first = None, 0
    for index, (episode, arrays) in enumerate(zip(episodes, numbers, strict=True)):
        length = episode["length"]
        frame = np.arange(length, dtype=np.int64)
        subtask = np.empty(length, np.int64)
        for event in episode["events"]:
            subtask[event["start"] : event["end"]] = subtasks.index(event["caption"])
        table = pa.table(
            {
                "observation.state": _fixed(arrays["state"]),
                "action": _fixed(arrays["action"]),
                "observation.intrinsics": _fixed(arrays["intrinsics"]),
                "observation.extrinsics": _fixed(arrays["extrinsics"]),
                "timestamp": pa.array((frame / CONTROL_HZ).astype(np.float32)),
                "frame_index": frame,
                "episode_index": np.full(length, index, np.int64),
                "index": frame + first,
                "task_index": np.full(length, tasks.index(episode["task"]), np.int64),
                "subtask_index": subtask,
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=length)
        first += length
    writer.close()


def _episode_table(episodes: Sequence[dict], views: Sequence[str]) -> pa.Table:
    lengths = np.array([episode["length"] for episode in episodes], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    zeros = np.zeros(len(episodes), np.int64)
    columns = {
        "episode_index": np.arange(len(episodes), dtype=np.int64),
        "tasks": pa.array([[episode["task"]] for episode in episodes], pa.list_(pa.string())),
        "length": lengths,
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": starts,
        "dataset_to_index": ends,
        "meta/episodes/chunk_index": zeros,
        "meta/episodes/file_index": zeros,
    }
    for view in views:
        prefix = f"videos/{video_key(view)}"
        columns |= {
            f"{prefix}/chunk_index": zeros,
            f"{prefix}/file_index": zeros,
            f"{prefix}/from_timestamp": starts / CONTROL_HZ,
            f"{prefix}/to_timestamp": ends / CONTROL_HZ,
        }
    for name, kind in (
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("caption", pa.string()),
        ("verb", pa.string()),
        ("object", pa.string()),
        ("target", pa.string()),
        ("recovery", pa.bool_()),
    ):
        rows = [[event[name] for event in episode["events"]] for episode in episodes]
        columns[f"event_{name}"] = pa.array(rows, pa.list_(kind))
    for name, kind in (("split", pa.string()), ("seed", pa.int64()), ("program", pa.string())):
        columns[name] = pa.array([episode[name] for episode in episodes], kind)
    return pa.table(columns)


def _describe(values: Float[np.ndarray, "T n"]) -> dict:
    values = values.astype(np.float64)
    row = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }
    return {name: value.tolist() for name, value in row.items()} | {"count": [len(values)]}


def _statistics(episodes: Sequence[dict], numbers: Sequence[dict], views: Sequence[str]) -> dict:
    result = {
        "observation.state": _describe(np.concatenate([arrays["state"] for arrays in numbers])),
        "action": _describe(np.concatenate([arrays["action"] for arrays in numbers])),
    }
    weights = np.array([episode["length"] for episode in episodes], np.float64)
    for index, view in enumerate(views):
        moments = {
            name: np.array([episode[f"image_{name}"][index] for episode in episodes])
            for name in ("mean", "square", "min", "max")
        }
        mean = weights @ moments["mean"] / weights.sum()
        square = weights @ moments["square"] / weights.sum()
        row = {
            "min": moments["min"].min(0),
            "max": moments["max"].max(0),
            "mean": mean,
            "std": np.sqrt(np.maximum(square - mean**2, 0.0)),
        }
        result[video_key(view)] = {name: value.reshape(3, 1, 1).tolist() for name, value in row.items()} | {
            "count": [int(weights.sum())]
        }
    return result


def _information(episodes: Sequence[dict], tasks: Sequence[str], views: Sequence[str], embodiment: str) -> dict:
    height, width = episodes[0]["size"]
    frames = sum(episode["length"] for episode in episodes)
    camera = [f"{view}.{row}{column}" for view in views for row in range(3) for column in range(3)]
    pose = [f"{view}.{row}{column}" for view in views for row in range(4) for column in range(4)]
    video = {
        "video.height": height,
        "video.width": width,
        "video.channels": 3,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.fps": int(CONTROL_HZ),
        "video.is_depth_map": False,
        "has_audio": False,
    }
    features = {
        "observation.state": {"dtype": "float32", "shape": [len(STATE_NAMES)], "names": list(STATE_NAMES)},
        "action": {"dtype": "float32", "shape": [len(STATE_NAMES)], "names": list(STATE_NAMES)},
        "observation.intrinsics": {"dtype": "float32", "shape": [len(camera)], "names": camera},
        "observation.extrinsics": {"dtype": "float32", "shape": [len(pose)], "names": pose},
    }
    for view in views:
        features[video_key(view)] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": video,
        }
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index", "subtask_index"):
        kind = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": kind, "shape": [1], "names": None}
    return {
        "codebase_version": "v3.0",
        "robot_type": "sawyer",
        "embodiment": embodiment,
        "total_episodes": len(episodes),
        "total_frames": frames,
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 500,
        "fps": int(CONTROL_HZ),
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
    }


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
