"""A curated dataset on disk: the event index, the numbers of every episode, and its decoded frames, memory-mapped.

index.parquet       one row an event (curation.index)
statistics.json     normalisation ranges
embodiment.json     the embodiment the numbers were lifted with
curation.json       counts, cluster histograms, rejections with reasons, settings
episodes.npz        state, action, timestamps, cameras and black borders of all episodes, end to end
frames/             episode_000000.npy ..., uint8 [T, V, H, W, 3]
"""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.data import text
from wallwm_jax.data.curation.index import EventIndex
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.statistics import Statistics

INDEX, STATISTICS, EMBODIMENT, REPORT, NUMBERS = (
    "index.parquet",
    "statistics.json",
    "embodiment.json",
    "curation.json",
    "episodes.npz",
)


def frames_path(root: pathlib.Path, episode: int) -> pathlib.Path:
    """Where an episode's decoded frames lie."""
    return root / "frames" / f"episode_{episode:06d}.npy"


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
        """Ids and mask [L] of an event's caption, encoded once."""
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
