"""A curated dataset on disk: the event index, the numbers of every episode, and its decoded frames, memory-mapped.

index.parquet       one row an event (curation.index)
statistics.json     normalisation ranges
embodiment.json     the embodiment the numbers were lifted with
curation.json       counts, cluster histograms, rejections with reasons, settings
windows.parquet     one row an observation-centred window (curation.window_index), once `index_windows` has made it
episodes.npz        state, action, timestamps, cameras and black borders of all episodes, end to end
frames/             episode_000000.npy ..., uint8 [T, V, H, W, 3]
digests.json        SHA-256 of the files that have been digested (data.digests)
"""

import functools
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.data import text
from wallwm_jax.data.curation.index import EventIndex
from wallwm_jax.data.curation.window_index import WindowIndex
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.data.statistics import Statistics

INDEX, WINDOWS, STATISTICS, EMBODIMENT, REPORT, NUMBERS = (
    "index.parquet",
    "windows.parquet",
    "statistics.json",
    "embodiment.json",
    "curation.json",
    "episodes.npz",
)


FRAMES = "frames"


def frames_path(root: pathlib.Path, episode: int) -> pathlib.Path:
    """Where an episode's decoded frames lie."""
    return root / FRAMES / f"episode_{episode:06d}.npy"


def frame_names(root: pathlib.Path) -> list[str]:
    """The files of decoded frames, by their paths below the curated directory."""
    return sorted(f"{FRAMES}/{path.name}" for path in (root / FRAMES).glob("*.npy"))


class Cameras(NamedTuple):
    """Calibration of an episode's views; identity matrices where `known` is False."""

    intrinsics: Float[np.ndarray, "T V 3 3"]
    """Pixels."""
    extrinsics: Float[np.ndarray, "T V 4 4"]
    """World to camera, OpenCV axes, metres."""
    known: bool


class CuratedDataset:
    """Read access to a curated directory. Episodes are named by their number in the source dataset.

    Frames are mapped when first asked for, so that the object pickles small and every worker maps its own.
    """

    def __init__(
        self,
        root: pathlib.Path,
        index: EventIndex,
        statistics: Statistics,
        embodiment: Embodiment,
        report: dict[str, Any],
        numbers: dict[str, np.ndarray],
    ):
        self.root, self.index, self.statistics, self.embodiment = root, index, statistics, embodiment
        self.report, self._numbers = report, numbers
        ends = np.cumsum(numbers["lengths"])
        starts = ends - numbers["lengths"]
        self._position = {int(episode): i for i, episode in enumerate(numbers["episodes"])}
        self._slices = [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
        self._maps: dict[int, np.ndarray] = {}
        self._tokens: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._windows: WindowIndex | None = None

    @classmethod
    def open(cls, root: str | pathlib.Path) -> "CuratedDataset":
        """Raises InputError naming what is missing or unreadable."""
        root = pathlib.Path(root)
        try:
            report = json.loads((root / REPORT).read_text())
            with np.load(root / NUMBERS) as file:
                numbers = dict(file)
        except (OSError, ValueError) as error:
            raise InputError(str(root), error, "a curated dataset") from error
        index = EventIndex.load(root / INDEX)
        statistics, embodiment = Statistics.load(root / STATISTICS), Embodiment.load(root / EMBODIMENT)
        return cls(root, index, statistics, embodiment, report, numbers)

    def __reduce__(self):
        return _reopen, (self.root,)

    @property
    def episodes(self) -> tuple[int, ...]:
        return tuple(self._position)

    @property
    def views(self) -> tuple[str, ...]:
        return self.embodiment.views

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.report["image_shape"][:2]
        return height, width

    def frames(self, episode: int, indices: Any = slice(None)) -> UInt8[np.ndarray, "n V H W 3"]:
        """Decoded RGB frames of an episode; without indices the whole memory-mapped array."""
        return self.frame_map(episode)[indices]

    def frame_map(self, episode: int) -> UInt8[np.ndarray, "T V H W 3"]:
        """The memory-mapped frames of an episode; raises InputError if their file is missing or damaged."""
        if episode not in self._maps:
            path = frames_path(self.root, episode)
            try:
                self._maps[episode] = np.asarray(np.load(path, mmap_mode="r"))
            except (OSError, ValueError) as error:
                raise InputError(str(path), error, "decoded frames") from error
        return self._maps[episode]

    def windows(self, settings: LoaderSettings) -> WindowIndex:
        """The index of observation-centred windows, read once.

        Raises InputError if `index_windows` has not made it, or made it for windows of another shape.
        """
        if self._windows is None:
            self._windows = WindowIndex.load(self.root / WINDOWS)
        self._windows.check(settings)
        return self._windows

    def task_row(self, episode: int) -> int:
        """The index row of level "task": the whole episode, whose caption is the instruction. Raises InputError if the
        index has none."""
        self._slice(episode)
        row = self._rows_of_episodes[episode][0]
        if row < 0:
            raise InputError(f"{self.root}: row of level 'task' of episode {episode}", "none", "one")
        return row

    def instruction(self, episode: int) -> str:
        """What the episode was asked to do: the caption at level "task"."""
        return str(self.index.columns["caption"][self.task_row(episode)])

    def event_at(self, episode: int, frame: int) -> int:
        """The action row that `frame` lies in, or -1 (events too short to use have no row)."""
        self._slice(episode)
        _, rows, starts, ends = self._rows_of_episodes[episode]
        place = int(np.searchsorted(starts, frame, side="right")) - 1
        return int(rows[place]) if place >= 0 and frame < ends[place] else -1

    @functools.cached_property
    def _rows_of_episodes(self) -> dict[int, tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """By episode: its task row, and its action rows with their starts and ends, in order of start."""
        columns, found = self.index.columns, {}
        actions, tasks = self.index.select(), self.index.select(level="task")
        task_of = dict(zip(columns["episode"][tasks].tolist(), tasks.tolist(), strict=True))
        for episode in self._position:
            own = actions[columns["episode"][actions] == episode]
            own = own[np.argsort(columns["start"][own], kind="stable")]
            found[episode] = (task_of.get(episode, -1), own, columns["start"][own], columns["end"][own])
        return found

    def length(self, episode: int) -> int:
        """Frames of an episode."""
        span = self._slice(episode)
        return span.stop - span.start

    def state(self, episode: int) -> Float[np.ndarray, "T 26"]:
        """Absolute unified states, world frame, not normalised."""
        return self._numbers["state"][self._slice(episode)]

    def action(self, episode: int) -> Float[np.ndarray, "T 26"]:
        """Absolute unified targets: row t is the pose commanded at frame t, reached about one step later."""
        return self._numbers["action"][self._slice(episode)]

    def cameras(self, episode: int) -> Cameras:
        span = self._slice(episode)
        known = bool(self._numbers["camera_known"][self._position[episode]])
        return Cameras(self._numbers["intrinsics"][span], self._numbers["extrinsics"][span], known)

    def borders(self, episode: int) -> np.ndarray:
        """Pixels of synthetic black at the top, bottom, left and right of every view, int [V, 4]."""
        return self._numbers["borders"][self._position[episode]]

    def caption_tokens(self, row: int | np.integer, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask [L] of an index row's caption, encoded once: an event's, or an episode's instruction."""
        key = (int(row), length)
        if key not in self._tokens:
            self._tokens[key] = text.encode(self.index.columns["caption"][row], length)
        return self._tokens[key]

    def _slice(self, episode: int) -> slice:
        if episode not in self._position:
            raise InputError(f"{self.root}: episode", episode, f"one of {len(self._position)} curated episodes")
        return self._slices[self._position[episode]]


def _reopen(root: pathlib.Path) -> CuratedDataset:
    """A function of the module, which workers find by its name; a class method would be pickled by value."""
    return CuratedDataset.open(root)
