"""Both clusterings rerun on history-conditioned windows (WALL-WM section 2, step 7), as the window index."""

import dataclasses
import os

import numpy as np
from jaxtyping import Float

from wallwm_jax.core.errors import InputError
from wallwm_jax.data import transforms
from wallwm_jax.data.curated import WINDOWS, CuratedDataset
from wallwm_jax.data.curation import cluster
from wallwm_jax.data.curation.window_index import WindowIndex, shape_of
from wallwm_jax.data.settings import FRAMES_PER_LATENT, LoaderSettings


@dataclasses.dataclass(frozen=True)
class WindowIndexSettings:
    """Anchors are `spacing` frames apart. Clusters smaller than `smallest_cluster` of an even share are dissolved."""

    spacing: int = 8
    vision_language_clusters: int = 8
    action_clusters: int = 32
    smallest_cluster: float = 0.5
    seed: int = 0

    def __post_init__(self):
        for field in ("spacing", "vision_language_clusters", "action_clusters"):
            if getattr(self, field) < 1:
                raise InputError(f"windows.{field}", getattr(self, field), "at least 1")


def index_windows(
    curated: CuratedDataset, loader: LoaderSettings, settings: WindowIndexSettings | None = None
) -> WindowIndex:
    """Places anchors on a regular grid of every episode, clusters their windows and writes the window index.

    Centroids come from the training split, every window gets a label. The file appears when it is complete, and
    replaces an earlier one. Raises InputError if `loader` has no history, or the training split no window.
    """
    settings, shape = settings or WindowIndexSettings(), shape_of(loader)
    parts = [_episode_windows(curated, episode, loader, settings.spacing) for episode in curated.episodes]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    train = np.flatnonzero(columns["split"] == "train")
    if not train.size:
        raise InputError(f"{curated.root}: windows of split 'train'", "none", "at least one")
    captions = [str(curated.index.columns["caption"][row]) if row >= 0 else "" for row in columns["event_row"]]
    words = cluster.caption_features(captions, cluster.vocabulary_of([captions[i] for i in train]))
    seen = [words, columns.pop("pictures")]
    moved = [columns.pop("past"), columns.pop("future")]
    counts = (settings.vision_language_clusters, settings.action_clusters)
    names = ("vision_language_cluster", "action_cluster")
    for name, blocks, count in zip(names, (seen, moved), counts, strict=True):
        columns[name] = cluster.labels(blocks, train, count, settings.smallest_cluster, settings.seed).astype(np.int32)
    index = WindowIndex(columns, shape, settings.spacing)
    partial = curated.root / f".{WINDOWS}.partial-{os.getpid()}"
    index.save(partial)
    partial.replace(curated.root / WINDOWS)
    return index


def _episode_windows(
    curated: CuratedDataset, episode: int, loader: LoaderSettings, spacing: int
) -> dict[str, np.ndarray]:
    """An episode's columns of the index, labels apart, and the features that they are made from."""
    rows, length = curated.index.columns, curated.length(episode)
    anchors = np.arange(0, length, spacing)
    task = curated.task_row(episode)
    before = loader.history.history_latents * FRAMES_PER_LATENT * loader.frame_stride
    motions = [_motion(curated, episode, anchor, before, loader.chunk_steps) for anchor in anchors.tolist()]
    past, future = zip(*motions, strict=True)
    frames = curated.frame_map(episode)
    pictures = [cluster.picture_features(frames[np.maximum(anchors - ago, 0)]) for ago in (before, 0)]
    return {
        "dataset": np.full(len(anchors), rows["dataset"][task]),
        "episode": np.full(len(anchors), episode, np.int32),
        "anchor": anchors.astype(np.int32),
        "event_row": np.array([curated.event_at(episode, anchor) for anchor in anchors.tolist()], np.int32),
        "split": np.full(len(anchors), rows["split"][task]),
        "pictures": np.concatenate(pictures, axis=1),
        "past": cluster.trajectory_features(past),
        "future": cluster.trajectory_features(future),
    }


def _motion(
    curated: CuratedDataset, episode: int, anchor: int, before: int, steps: int
) -> tuple[Float[np.ndarray, "_ d"], Float[np.ndarray, "_ d"]]:
    """Poses up to the anchor, and targets from it, both relative to the anchor's pose."""
    state, mask = curated.state(episode), curated.embodiment.dof_mask
    targets = curated.action(episode)[anchor : anchor + steps]
    poses = state[max(anchor - before, 0) : anchor + 1]
    return tuple(transforms.relative_actions(state[anchor], part, mask)[:, mask] for part in (poses, targets))
