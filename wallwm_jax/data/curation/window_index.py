"""The window index: a Parquet table with one row an observation-centred window, on a regular grid of anchors.

dataset                   as in the event index
episode                   number of the episode
anchor                    frame of the current observation
event_row                 row of the event index (level "action") that the anchor lies in, -1 for none
split                     the episode's
vision_language_cluster   of what is seen before the window and at its anchor, and what the event there is called
action_cluster            of the motion up to the anchor and from it
"""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.settings import LoaderSettings

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("episode", pa.int32()),
        ("anchor", pa.int32()),
        ("event_row", pa.int32()),
        ("split", pa.string()),
        ("vision_language_cluster", pa.int32()),
        ("action_cluster", pa.int32()),
    ]
)


class WindowIndex:
    """A window index in memory, with the shape of the windows that it was clustered for.

    Attributes:
      spacing: frames between neighbouring anchors of an episode.
      columns: every column as an array; do not write to them.
    """

    def __init__(self, columns: dict[str, np.ndarray], shape: dict[str, int], spacing: int):
        self.columns, self.shape, self.spacing = columns, shape, spacing

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "WindowIndex":
        """Raises InputError if the file is missing, unreadable or lacks a column."""
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                str(path), f"unreadable ({error})", "a window index, as `index_windows` makes it"
            ) from error
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise InputError(f"{path}: columns", table.column_names, f"{missing} among them")
        numbers = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        named = ("spacing", *_SHAPE)
        if any(not numbers.get(name, "").isdigit() for name in named):
            raise InputError(f"{path}: metadata", sorted(numbers), f"numbers for {list(named)}")
        columns = {name: table[name].to_numpy() for name in SCHEMA.names}
        return cls(columns, {name: int(numbers[name]) for name in _SHAPE}, int(numbers["spacing"]))

    def save(self, path: str | pathlib.Path) -> None:
        metadata = {name: str(value) for name, value in (self.shape | {"spacing": self.spacing}).items()}
        table = pa.table({name: self.columns[name] for name in SCHEMA.names}, schema=SCHEMA.with_metadata(metadata))
        partial = pathlib.Path(path).with_suffix(".partial")
        pq.write_table(table, partial)
        partial.replace(path)  # whole or not there: what is there counts as done

    def __len__(self) -> int:
        return len(self.columns["anchor"])

    def select(self, split: str) -> Int[np.ndarray, "n"]:
        """Numbers of the rows of a split."""
        return np.flatnonzero(self.columns["split"] == split)

    def check(self, settings: LoaderSettings) -> None:
        """Raises InputError if the index was made for windows of another shape than `settings` cut."""
        if self.shape != shape_of(settings):
            raise InputError("window index", self.shape, f"{shape_of(settings)}: run `index_windows` again")


_SHAPE = ("history_latents", "future_latents", "frame_stride")


def shape_of(settings: LoaderSettings) -> dict[str, int]:
    """What of the settings decides which frames a window shows; raises InputError if they have no `history`."""
    if settings.history is None:
        raise InputError("data.history", None, "settings of observation-centred windows")
    history = settings.history
    return dict(zip(_SHAPE, (history.history_latents, history.future_latents, settings.frame_stride), strict=True))
