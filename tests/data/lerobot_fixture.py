"""Writes tiny LeRobot v3.0 datasets: two views of noise blobs, x264, a few events an episode."""

import dataclasses
import json
import pathlib

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VIEWS = ("front", "wrist")
SIZE = 16
FPS = 20
NAMES = ("x", "y", "z", "gripper")
EMBODIMENT = {
    "name": "toy",
    "control_hz": FPS,
    "views": list(VIEWS),
    "state_column": "observation.state",
    "action_column": "action",
    "state": {name: f"right_arm.{name}" for name in NAMES},
    "action": {name: f"right_arm.{name}" for name in NAMES},
}


@dataclasses.dataclass
class ToyEpisode:
    """What the writer writes; tests damage it first."""

    state: np.ndarray
    action: np.ndarray
    events: list[tuple[int, int, str, str, str]]
    split: str = "train"
    black_rows: int = 0

    @property
    def length(self) -> int:
        return len(self.state)


def toy_episodes(count: int, seed: int = 0, longest: int = 40) -> list[ToyEpisode]:
    """Random walks cut into events of 2 to `longest` steps; the last episode is held out."""
    generator = np.random.default_rng(seed)
    phrases = [("reach the drawer", "reach", "drawer"), ("lift the puck", "lift", "puck"), ("press it", "press", "box")]
    episodes = []
    for number in range(count):
        lengths = generator.integers(2, longest + 1, size=4)
        total = int(lengths.sum())
        state = np.cumsum(generator.normal(size=(total, 4)) * 0.01, axis=0).astype(np.float32)
        state[:, 3] = generator.uniform(size=total)
        action = np.roll(state, -1, axis=0) + generator.normal(size=state.shape).astype(np.float32) * 1e-3
        ends = np.cumsum(lengths)
        events = [
            (int(end - length), int(end), *phrases[int(generator.integers(3))])
            for length, end in zip(lengths, ends, strict=True)
        ]
        split = "heldout" if number == count - 1 and count > 1 else "train"
        episodes.append(ToyEpisode(state, action.astype(np.float32), events, split))
    return episodes


def picture(episode: int, frame: int, view: int, black_rows: int = 0) -> np.ndarray:
    """A flat colour that tells episode, frame and view apart even after lossy coding."""
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    image[...] = (40 + 5 * (frame % 40), 60 + 30 * (episode % 6), 100 + 100 * view)
    image[:black_rows] = 0
    return image


def write_dataset(root: pathlib.Path, episodes: list[ToyEpisode]) -> pathlib.Path:
    """Writes all episodes to one data file and one video file a view; returns `root`."""
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    offsets = np.cumsum([0] + [episode.length for episode in episodes])
    _write_videos(root, episodes)
    _write_data(root, episodes, offsets)
    _write_meta(root, episodes, offsets)
    (root / "embodiment.json").write_text(json.dumps(EMBODIMENT))
    return root


def video_path(root: pathlib.Path, view: str) -> pathlib.Path:
    return root / f"videos/observation.images.{view}/chunk-000/file-000.mp4"


def data_path(root: pathlib.Path) -> pathlib.Path:
    return root / "data/chunk-000/file-000.parquet"


def episodes_path(root: pathlib.Path) -> pathlib.Path:
    return root / "meta/episodes/chunk-000/file-000.parquet"


def _write_videos(root: pathlib.Path, episodes: list[ToyEpisode]) -> None:
    for number, view in enumerate(VIEWS):
        path = video_path(root, view)
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "10", "g": "10", "threads": "1"})
            stream.width = stream.height = SIZE
            stream.pix_fmt = "yuv420p"
            for index, episode in enumerate(episodes):
                for frame in range(episode.length):
                    image = picture(index, frame, number, episode.black_rows)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())


def _write_data(root: pathlib.Path, episodes: list[ToyEpisode], offsets: np.ndarray) -> None:
    cameras = len(VIEWS)
    intrinsics = np.stack([np.diag([20.0 + view, 20.0, 1.0]) for view in range(cameras)]).reshape(-1)
    with pq.ParquetWriter(data_path(root), _table(episodes[0], 0, 0, intrinsics).schema) as writer:
        for index, episode in enumerate(episodes):
            writer.write_table(_table(episode, index, int(offsets[index]), intrinsics))


def _table(episode: ToyEpisode, index: int, offset: int, intrinsics: np.ndarray) -> pa.Table:
    frames = np.arange(episode.length)
    extrinsics = np.tile(np.eye(4), (episode.length, len(VIEWS), 1, 1))
    extrinsics[:, :, 0, 3] = frames[:, None] / 100  # a moving camera, so that tests see which frame is meant
    lists = {
        "observation.state": episode.state,
        "action": episode.action,
        "observation.intrinsics": np.tile(intrinsics, (episode.length, 1)),
        "observation.extrinsics": extrinsics.reshape(episode.length, -1),
    }
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])
        for name, values in lists.items()
    }
    columns |= {
        "timestamp": pa.array((frames / FPS).astype(np.float32)),
        "frame_index": pa.array(frames),
        "episode_index": pa.array(np.full(episode.length, index)),
        "index": pa.array(frames + offset),
        "task_index": pa.array(np.zeros(episode.length, np.int64)),
    }
    return pa.table(columns)


def _write_meta(root: pathlib.Path, episodes: list[ToyEpisode], offsets: np.ndarray) -> None:
    rows = []
    for index, episode in enumerate(episodes):
        row = {
            "episode_index": index,
            "tasks": ["tidy the table"],
            "length": episode.length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": int(offsets[index]),
            "dataset_to_index": int(offsets[index + 1]),
            "split": episode.split,
            "program": "toy",
            "event_recovery": [False] * len(episode.events),
        }
        for view in VIEWS:
            prefix = f"videos/observation.images.{view}/"
            row |= {prefix + "chunk_index": 0, prefix + "file_index": 0}
            row |= {prefix + "from_timestamp": offsets[index] / FPS, prefix + "to_timestamp": offsets[index + 1] / FPS}
        for position, field in enumerate(("start", "end", "caption", "verb", "object")):
            row[f"event_{field}"] = [event[position] for event in episode.events]
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), episodes_path(root))
    pq.write_table(pa.table({"task_index": [0], "task": ["tidy the table"]}), root / "meta/tasks.parquet")
    features = {f"observation.images.{view}": {"dtype": "video", "shape": [SIZE, SIZE, 3]} for view in VIEWS}
    vector = {"dtype": "float32", "shape": [4], "names": list(NAMES)}
    features |= {"observation.state": vector, "action": vector}
    features |= {"observation.intrinsics": {"dtype": "float32", "shape": [9 * len(VIEWS)]}}
    features |= {"observation.extrinsics": {"dtype": "float32", "shape": [16 * len(VIEWS)]}}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "embodiment": "toy",
        "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
