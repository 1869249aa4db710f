"""The metadata of a LeRobot v3.0 dataset: meta/info.json, meta/tasks.parquet and meta/episodes/."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Event
from wallwm_jax.data.episodes.video import Span

FORMAT_VERSION = "v3.0"
IMAGE_PREFIX = "observation.images."
EVENT_COLUMNS = ("event_start", "event_end", "event_caption", "event_verb", "event_object")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What meta/info.json says. `views` are the video features' names without their prefix, in file order."""

    root: pathlib.Path
    embodiment: str
    fps: float
    views: tuple[str, ...]
    image_shape: tuple[int, int, int]
    features: dict[str, Any]
    data_path: str
    video_path: str

    def data_file(self, chunk: int, file: int) -> pathlib.Path:
        return self.root / self.data_path.format(chunk_index=chunk, file_index=file)

    def video_file(self, view: str, chunk: int, file: int) -> pathlib.Path:
        key = IMAGE_PREFIX + view
        return self.root / self.video_path.format(video_key=key, chunk_index=chunk, file_index=file)

    def names(self, column: str) -> tuple[str, ...]:
        """Names of a vector feature's entries; LeRobot writes them as a list or under one heading."""
        if column not in self.features:
            raise InputError(f"{self.root}/meta/info.json: features", sorted(self.features), f"{column!r} among them")
        names = self.features[column].get("names") or ()
        if isinstance(names, dict):
            names = next(iter(names.values()))
        return tuple(names)


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """One row of meta/episodes: where the episode's data lie, and its annotations."""

    index: int
    length: int
    task: str
    split: str
    program: str
    data_file: pathlib.Path
    videos: dict[str, tuple[pathlib.Path, Span]]
    """A view's file and the frames of it that are this episode's."""
    events: tuple[Event, ...]
    recovery: tuple[bool, ...]


def read_info(root: pathlib.Path) -> DatasetInfo:
    """Reads meta/info.json; raises InputError if it is missing, of another version, or lacks a field."""
    path = root / "meta" / "info.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(str(path), error, "the info file of a LeRobot dataset") from error
    if values.get("codebase_version") != FORMAT_VERSION:
        raise InputError(f"{path}: codebase_version", values.get("codebase_version"), FORMAT_VERSION)
    for field in ("fps", "features", "data_path", "video_path"):
        if field not in values:
            raise InputError(f"{path}: {field}", "nothing", "a value")
    videos = {key: value for key, value in values["features"].items() if value["dtype"] == "video"}
    if not videos:
        raise InputError(f"{path}: features", "no video feature", "at least one")
    shapes = {tuple(value["shape"]) for value in videos.values()}
    if len(shapes) > 1:
        raise InputError(f"{path}: video shapes", sorted(shapes), "one shape for all views")
    return DatasetInfo(
        root=root,
        embodiment=values.get("embodiment", values.get("robot_type", "")),
        fps=float(values["fps"]),
        views=tuple(key.removeprefix(IMAGE_PREFIX) for key in videos),
        image_shape=shapes.pop(),
        features=values["features"],
        data_path=values["data_path"],
        video_path=values["video_path"],
    )


def read_table(path: pathlib.Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file's table; raises InputError naming an unreadable file or a missing column."""
    try:
        present = pq.read_schema(path).names
        missing = [column for column in columns or () if column not in present]
        if missing:
            raise InputError(f"{path}: column {missing[0]!r}", f"only {present}", "that column")
        return pq.read_table(path, columns=list(columns) if columns else None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(str(path), f"unreadable ({error})", "a complete parquet file") from error


def read_episode_records(info: DatasetInfo) -> list[EpisodeRecord]:
    """All rows of meta/episodes, ordered by episode; raises InputError on missing files or impossible events."""
    files = sorted((info.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise InputError(f"{info.root}/meta/episodes", "no parquet file", "chunk-*/file-*.parquet")
    needed = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    for view in info.views:
        prefix = f"videos/{IMAGE_PREFIX}{view}/"
        needed += [prefix + name for name in ("chunk_index", "file_index", "from_timestamp")]
    records = []
    for file in files:
        read_table(file, needed)
        table = pq.read_table(file)
        keep = [name for name in table.column_names if not name.startswith("stats/")]
        records += [_record(info, file, row) for row in table.select(keep).to_pylist()]
    return sorted(records, key=lambda record: record.index)


def _record(info: DatasetInfo, file: pathlib.Path, row: dict[str, Any]) -> EpisodeRecord:
    videos = {}
    for view in info.views:
        prefix = f"videos/{IMAGE_PREFIX}{view}/"
        path = info.video_file(view, row[prefix + "chunk_index"], row[prefix + "file_index"])
        if not path.is_file():
            raise InputError(str(path), "no file", f"the {view} video of episode {row['episode_index']}")
        videos[view] = (path, Span(round(row[prefix + "from_timestamp"] * info.fps), row["length"]))
    events = _events(file, row)
    recovery = row.get("event_recovery") or [False] * len(events)
    targets = row.get("event_target") or [""] * len(events)
    for name, values in (("event_recovery", recovery), ("event_target", targets)):
        if len(values) != len(events):
            field = f"{file}: episode {row['episode_index']}, {name}"
            raise InputError(field, f"{len(values)} values", f"{len(events)}, one an event")
    events = tuple(dataclasses.replace(event, target=target) for event, target in zip(events, targets, strict=True))
    return EpisodeRecord(
        index=row["episode_index"],
        length=row["length"],
        task=row["tasks"][0],
        split=row.get("split") or "train",
        program=row.get("program") or "",
        data_file=info.data_file(row["data/chunk_index"], row["data/file_index"]),
        videos=videos,
        events=events,
        recovery=tuple(recovery),
    )


def _events(file: pathlib.Path, row: dict[str, Any]) -> tuple[Event, ...]:
    lists = [row.get(column) or [] for column in EVENT_COLUMNS]
    name = f"{file}: episode {row['episode_index']}"
    lengths = {column: len(values) for column, values in zip(EVENT_COLUMNS, lists, strict=True)}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{name}: events", lengths, "lists of one length")
    events = tuple(Event(*values) for values in zip(*lists, strict=True))
    for number, event in enumerate(events):
        if event.start < 0:
            raise InputError(f"{name}: event {number} start", event.start, "at least 0")
        if event.end <= event.start:
            raise InputError(f"{name}: event {number} end", event.end, f"more than its start, {event.start}")
        if event.end > row["length"]:
            raise InputError(f"{name}: event {number} end", event.end, f"at most the episode's {row['length']} frames")
    return events
