"""From a recorded dataset to a curated one: check, make event rows, decode once, cluster, write, all or nothing."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wallwm_jax.core.config import Section, check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Episode
from wallwm_jax.data import curated, text, transforms
from wallwm_jax.data.curation import cluster, events, language
from wallwm_jax.data.curation.events import EventRow, Rejection
from wallwm_jax.data.curation.frames import black_borders, decode_episodes
from wallwm_jax.data.curation.index import EventIndex
from wallwm_jax.data.digests import file_digests
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.episodes.lerobot import LeRobotDataset, open_dataset
from wallwm_jax.data.statistics import Statistics, compute_statistics

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is."""


@dataclasses.dataclass(frozen=True)
class CurationSettings:
    """Clusters smaller than `smallest_cluster` of an even share are dissolved; speeds are in m/s."""

    vision_language_clusters: int = 8
    action_clusters: int = 8
    smallest_cluster: float = 0.5
    minimum_steps: int = 2
    static_speed: float = 0.02
    largest_speed: float = 5.0
    text_length: int = 56
    token_vocabulary: int = 512
    threads: int = 4
    seed: int = 0

    def __post_init__(self):
        for field in ("vision_language_clusters", "action_clusters", "minimum_steps", "text_length", "threads"):
            if getattr(self, field) < 1:
                raise InputError(f"curation.{field}", getattr(self, field), "at least 1")

    @classmethod
    def from_config(cls, config: Section) -> "CurationSettings":
        """From a run's config: its section `curation`, if it has one, its `data.text_length` and its seed.

        Raises InputError naming the nearest key for an unknown one.
        """
        section = dict(config.get("curation", {}))
        taken = {"text_length": config["data"]["text_length"], "seed": config["seed"]}
        check_keys(section, {field.name for field in dataclasses.fields(cls)} - set(taken), "config.curation")
        return cls(**section, **taken)


@dataclasses.dataclass(frozen=True)
class CurationReport:
    """What curation did; curation.json holds the same fields. `clusters`: clustering -> events of each cluster."""

    dataset: str
    source: str
    views: tuple[str, ...]
    image_shape: tuple[int, int, int]
    control_hz: float
    counts: dict[str, int]
    verbs: dict[str, int]
    clusters: dict[str, list[int]]
    rejections: tuple[Rejection, ...]
    episodes: tuple[dict[str, Any], ...]
    statistics_digest: str
    settings: CurationSettings


def curate(
    dataset_root: str | pathlib.Path,
    output: str | pathlib.Path,
    embodiment_path: str | pathlib.Path,
    settings: CurationSettings | None = None,
    progress: Progress = lambda stage, done, total: None,
    overwrite: bool = False,
) -> CurationReport:
    """Curates a LeRobot v3.0 dataset into `output`, which appears only when it is complete.

    Raises InputError on the first file or field that is wrong, or if `output` exists and is not a curated dataset that
    `overwrite` allows to replace.
    """
    settings, output = settings or CurationSettings(), pathlib.Path(output)
    replaceable = overwrite and (output / curated.REPORT).is_file()
    if output.exists() and not replaceable:
        raise InputError(str(output), "something there already", "an output directory that does not exist yet")
    dataset = open_dataset(dataset_root, Embodiment.load(embodiment_path))
    episodes, rows, rejections = _read(dataset, settings, progress)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        report = _write(dataset, episodes, rows, rejections, settings, partial, progress)
        if replaceable:
            shutil.rmtree(output)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return report


def _read(
    dataset: LeRobotDataset, settings: CurationSettings, progress: Progress
) -> tuple[dict[int, Episode], list[EventRow], list[Rejection]]:
    """Usable episodes by position, their event rows (actions first, then tasks), and what was rejected."""
    episodes, actions, tasks, rejections = {}, [], [], []
    for position in dataset.episodes():
        record, episode = dataset.records[position], dataset.episode(position)
        problem = events.episode_problem(episode, settings.largest_speed)
        if problem:
            rejections.append(Rejection(episode.index, 0, record.length, problem))
            continue
        episodes[position] = episode
        found, short = events.action_rows(
            episode, record.recovery, record.split, settings.minimum_steps, settings.static_speed
        )
        actions += [dataclasses.replace(row, parent_rows=(len(tasks),)) for row in found]
        rejections += short
        tasks.append(events.task_row(episode, record.split))
        progress("read", position + 1, len(dataset))
    if not any(row.split == "train" for row in actions):
        raise InputError(f"{dataset.info.root}: events of split 'train'", "none", "at least one")
    _check_captions(dataset, [*actions, *tasks], settings.text_length)
    actions = [dataclasses.replace(row, parent_rows=(len(actions) + row.parent_rows[0],)) for row in actions]
    return episodes, [*actions, *tasks], rejections


def _check_captions(dataset: LeRobotDataset, rows: Sequence[EventRow], length: int) -> None:
    for row in rows:
        needed = text.token_count(row.caption)
        if row.level == "action" and needed > length:
            field = f"{dataset.info.root}: episode {row.episode}, caption {row.caption!r}"
            raise InputError(field, f"{needed} tokens", f"at most {length}")


def _write(
    dataset: LeRobotDataset,
    episodes: dict[int, Episode],
    rows: list[EventRow],
    rejections: list[Rejection],
    settings: CurationSettings,
    root: pathlib.Path,
    progress: Progress,
) -> CurationReport:
    by_index = {episode.index: episode for episode in episodes.values()}
    trajectories = [_relative_actions(row, by_index[row.episode]) for row in rows if row.level == "action"]
    statistics = _statistics(by_index, rows, trajectories)
    maps = decode_episodes(dataset, list(episodes), root, settings.threads, progress)
    rows = _clustered(rows, trajectories, maps, dataset.embodiment, settings)
    progress("cluster", 1, 1)
    EventIndex.from_rows(rows).save(root / curated.INDEX)
    statistics.save(root / curated.STATISTICS)
    dataset.embodiment.save(root / curated.EMBODIMENT)
    language.save_language(rows, dataset.info.root, root, settings.token_vocabulary)
    _save_numbers(root / curated.NUMBERS, list(by_index.values()), maps)
    for frames in maps.values():
        frames.flush()
    file_digests(root, [curated.INDEX, curated.NUMBERS, *curated.frame_names(root)])
    report = _report(dataset, episodes, rows, rejections, statistics, settings)
    (root / curated.REPORT).write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    return report


def _relative_actions(row: EventRow, episode: Episode) -> np.ndarray:
    actions = episode.action[row.start : row.end]
    return transforms.relative_actions(episode.state[row.start], actions, episode.dof_mask)


def _statistics(by_index: dict[int, Episode], rows: list[EventRow], trajectories: list[np.ndarray]) -> Statistics:
    train = {row.episode for row in rows if row.split == "train"}
    states = np.concatenate([by_index[episode].state for episode in sorted(train)])
    actions = [relative for row, relative in zip(rows, trajectories, strict=False) if row.split == "train"]
    return compute_statistics(states, np.concatenate(actions))


def _clustered(
    rows: list[EventRow],
    trajectories: list[np.ndarray],
    maps: dict[int, np.ndarray],
    embodiment: Embodiment,
    settings: CurationSettings,
) -> list[EventRow]:
    """Rows with cluster labels; centroids come from the training split, every action row gets a label."""
    actions = rows[: len(trajectories)]
    train = np.flatnonzero([row.split == "train" for row in actions])
    captions = [row.caption for row in actions]
    vocabulary = cluster.vocabulary_of([captions[i] for i in train])
    keyframes = np.stack([maps[row.episode][row.start] for row in actions])
    seen = [cluster.caption_features(captions, vocabulary), cluster.picture_features(keyframes)]
    moved = cluster.trajectory_features([relative[:, embodiment.dof_mask] for relative in trajectories])
    labels = [
        cluster.labels(blocks, train, count, settings.smallest_cluster, settings.seed)
        for blocks, count in ((seen, settings.vision_language_clusters), ([moved], settings.action_clusters))
    ]
    pairs = zip(actions, *labels, strict=True)
    labelled = [
        dataclasses.replace(row, vision_language_cluster=int(seen), action_cluster=int(moved))
        for row, seen, moved in pairs
    ]
    return labelled + rows[len(trajectories) :]


def _save_numbers(path: pathlib.Path, episodes: list[Episode], maps: dict[int, np.ndarray]) -> None:
    lengths = np.asarray([len(episode.state) for episode in episodes])
    views = len(episodes[0].views)
    known = np.asarray([episode.intrinsics is not None for episode in episodes])
    cameras = {"intrinsics": 3, "extrinsics": 4}
    for name, size in cameras.items():
        unknown = np.eye(size, dtype=np.float32)
        parts = [getattr(episode, name) for episode in episodes]
        blank = [np.broadcast_to(unknown, (length, views, size, size)) for length in lengths]
        filled = [empty if part is None else part for part, empty in zip(parts, blank, strict=True)]
        cameras[name] = np.concatenate(filled).astype(np.float32)
    np.savez(
        path,
        episodes=np.asarray([episode.index for episode in episodes]),
        lengths=lengths,
        state=np.concatenate([episode.state for episode in episodes]),
        action=np.concatenate([episode.action for episode in episodes]),
        timestamps=np.concatenate([episode.timestamps for episode in episodes]),
        camera_known=known,
        borders=np.stack([black_borders(maps[episode.index]) for episode in episodes]),
        **cameras,
    )


def _report(
    dataset: LeRobotDataset,
    episodes: dict[int, Episode],
    rows: list[EventRow],
    rejections: list[Rejection],
    statistics: Statistics,
    settings: CurationSettings,
) -> CurationReport:
    actions = [row for row in rows if row.level == "action"]
    records = [dataset.records[position] for position in episodes]
    counts = {"episodes": len(episodes), "frames": sum(record.length for record in records), "events": len(actions)}
    for split in sorted({row.split for row in actions}):
        counts[f"events_{split}"] = sum(row.split == split for row in actions)
    counts["rejections"] = len(rejections)
    names = ("vision_language_cluster", "action_cluster")
    clusters = {name: np.bincount([getattr(row, name) for row in actions]).tolist() for name in names}
    verbs = sorted({row.verb for row in actions})
    return CurationReport(
        dataset=dataset.info.root.name,
        source=str(dataset.info.root),
        views=dataset.embodiment.views,
        image_shape=dataset.info.image_shape,
        control_hz=dataset.embodiment.control_hz,
        counts=counts,
        verbs={verb: sum(row.verb == verb for row in actions) for verb in verbs},
        clusters=clusters,
        rejections=tuple(rejections),
        episodes=tuple(
            {"episode": r.index, "frames": r.length, "split": r.split, "task": r.task, "program": r.program}
            for r in records
        ),
        statistics_digest=statistics.digest,
        settings=settings,
    )
