"""The event index: a Parquet table with one row an event."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.curation.events import EventRow

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("episode", pa.int32()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("level", pa.string()),
        ("caption", pa.string()),
        ("verb", pa.string()),
        ("object", pa.string()),
        ("target", pa.string()),
        ("parent_rows", pa.list_(pa.int32())),
        ("lag", pa.int32()),
        ("quality_flags", pa.list_(pa.string())),
        ("vision_language_cluster", pa.int32()),
        ("action_cluster", pa.int32()),
        ("recovery", pa.bool_()),
        ("length", pa.int32()),
        ("static_fraction", pa.float32()),
        ("split", pa.string()),
    ]
)


class EventIndex:
    """An index in memory. A row's number is its identity everywhere (`EventBatch.event_rows`)."""

    def __init__(self, table: pa.Table):
        self.table = table

    @classmethod
    def from_rows(cls, rows: Sequence[EventRow]) -> "EventIndex":
        return cls(pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SCHEMA))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "EventIndex":
        """Raises InputError if the file is unreadable or lacks a column."""
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(str(path), f"unreadable ({error})", "an event index") from error
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise InputError(f"{path}: columns", table.column_names, f"{missing} among them")
        return cls(table.select(SCHEMA.names))

    def save(self, path: str | pathlib.Path) -> None:
        pq.write_table(self.table, path)

    def __len__(self) -> int:
        return self.table.num_rows

    def row(self, number: int | np.integer) -> EventRow:
        """One event; raises InputError if there is no such row."""
        if not 0 <= number < len(self):
            raise InputError("event row", number, f"a number below {len(self)}")
        values = self.table.slice(int(number), 1).to_pylist()[0]
        lists = {name: tuple(values[name]) for name in ("parent_rows", "quality_flags")}
        return EventRow(**values | lists)

    @functools.cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Every column but the two list columns as an array; do not write to them."""
        names = [field.name for field in SCHEMA if not pa.types.is_list(field.type)]
        return {name: self.table[name].to_numpy() for name in names}

    def select(self, split: str | None = None, level: str = "action") -> Int[np.ndarray, "n"]:
        """Numbers of the rows of a caption level, of one split or of all."""
        keep = self.columns["level"] == level
        if split is not None:
            keep &= self.columns["split"] == split
        return np.flatnonzero(keep)
