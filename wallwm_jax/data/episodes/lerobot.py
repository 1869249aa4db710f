"""Reading LeRobot v3.0 with pyarrow and PyAV: metadata and numbers at once, pixels on demand.

Event annotations are list columns of meta/episodes (event_start, event_end, event_caption, event_verb, event_object,
and optionally event_recovery and event_target); `split` and `program` are optional columns there. Calibration is read
from the optional vector columns `observation.intrinsics` (9 numbers a view) and `observation.extrinsics` (16 a view),
views in the order of info.json.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Caption, Episode
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.episodes import metadata, video

INTRINSICS, EXTRINSICS = "observation.intrinsics", "observation.extrinsics"


class LeRobotDataset:
    """A dataset directory. Opening it reads the metadata only; see `open_dataset`."""

    def __init__(self, info: metadata.DatasetInfo, records: Sequence[metadata.EpisodeRecord], embodiment: Embodiment):
        self.info, self.records, self.embodiment = info, tuple(records), embodiment
        self._open_file: tuple[pathlib.Path | None, pa.Table | None] = (None, None)

    def __len__(self) -> int:
        return len(self.records)

    def episodes(self) -> range:
        """Positions of the episodes, for `episode` and `frames`."""
        return range(len(self.records))

    def episode(self, position: int) -> Episode:
        """Numbers and annotations of an episode in the unified layout, without decoding any video.

        Raises InputError for an unreadable file, a missing column, a wrong number of rows, or a state or action that
        is not finite.
        """
        record, embodiment = self.records[position], self.embodiment
        table = self._table(record)
        state = self._vectors(table, record, embodiment.state_column)
        action = self._vectors(table, record, embodiment.action_column)
        captions = [Caption("task", 0, record.length, record.task)]
        captions += [Caption("action", event.start, event.end, event.caption) for event in record.events]
        intrinsics, extrinsics = self._cameras(table, record)
        return Episode(
            dataset=self.info.root.name,
            index=record.index,
            fps=self.info.fps,
            views=embodiment.views,
            state=embodiment.lift_state(state, self._names(embodiment.state_column)),
            action=embodiment.lift_action(action, self._names(embodiment.action_column)),
            dof_mask=embodiment.dof_mask,
            timestamps=np.asarray(table["timestamp"].to_numpy(), np.float64),
            embodiment=embodiment.name,
            source=record.program,
            confidence=1.0,
            task=record.task,
            captions=tuple(captions),
            events=record.events,
            intrinsics=intrinsics,
            extrinsics=extrinsics,
        )

    def frames(
        self, position: int, indices: Sequence[int], views: Sequence[str] | None = None
    ) -> UInt8[np.ndarray, "n V H W 3"]:
        """RGB frames `indices` of an episode, decoded from its video files by seeking."""
        record = self.records[position]
        out_of_range = [int(index) for index in indices if not 0 <= index < record.length]
        if out_of_range:
            raise InputError(f"frames of episode {record.index}", out_of_range, f"numbers below {record.length}")
        chosen = self.embodiment.views if views is None else views
        parts = [video.decode_frames(*record.videos[view], indices, self.info.fps) for view in chosen]
        return np.stack(parts, axis=1)

    def _table(self, record: metadata.EpisodeRecord) -> pa.Table:
        columns = [self.embodiment.state_column, self.embodiment.action_column, "timestamp", "episode_index"]
        present = self.info.features
        columns += [column for column in (INTRINSICS, EXTRINSICS) if column in present]
        if self._open_file[0] != record.data_file:  # a file holds many episodes, read one after the other
            self._open_file = (record.data_file, metadata.read_table(record.data_file, columns))
        table = self._open_file[1]
        table = table.filter(pa.compute.equal(table["episode_index"], record.index))
        if table.num_rows != record.length:
            raise InputError(
                f"{record.data_file}: rows of episode {record.index}", table.num_rows, f"{record.length} (its length)"
            )
        return table

    def _names(self, column: str) -> tuple[str, ...]:
        return self.info.names(column)

    def _vectors(self, table: pa.Table, record: metadata.EpisodeRecord, column: str) -> np.ndarray:
        values = _matrix(table, column)
        if values.shape[1:] != (len(self._names(column)),):
            raise InputError(f"{record.data_file}: {column}", values.shape[1:], f"{len(self._names(column))} numbers")
        bad = np.argwhere(~np.isfinite(values))
        if bad.size:
            frame, entry = bad[0]
            field = f"{record.data_file}: {column}.{self._names(column)[entry]}, episode {record.index}, frame {frame}"
            raise InputError(field, values[frame, entry], "a finite number")
        return values

    def _cameras(self, table: pa.Table, record: metadata.EpisodeRecord) -> tuple[np.ndarray | None, np.ndarray | None]:
        found = []
        order = [self.info.views.index(view) for view in self.embodiment.views]
        for column, size in ((INTRINSICS, 3), (EXTRINSICS, 4)):
            if column not in table.column_names:
                return None, None
            values = _matrix(table, column)
            expected = len(self.info.views) * size * size
            if values.shape[1:] != (expected,):
                raise InputError(f"{record.data_file}: {column}", values.shape[1:], f"{expected} numbers")
            found.append(values.reshape(len(values), len(self.info.views), size, size)[:, order])
        return tuple(found)


def open_dataset(root: str | pathlib.Path, embodiment: Embodiment) -> LeRobotDataset:
    """Opens a LeRobot v3.0 directory and checks its metadata against the embodiment.

    Raises InputError naming a missing metadata or video file, a missing column, a view that the recording lacks, a
    frame rate other than the control rate, or an event that ends before it starts or after its episode.
    """
    info = metadata.read_info(pathlib.Path(root))
    missing = [view for view in embodiment.views if view not in info.views]
    if missing:
        raise InputError(f"{root}/meta/info.json: views", info.views, f"{missing} among them")
    if info.fps != embodiment.control_hz:
        raise InputError(f"{root}/meta/info.json: fps", info.fps, f"{embodiment.control_hz} ({embodiment.name})")
    wanted = {embodiment.state_column: embodiment.state, embodiment.action_column: embodiment.action}
    for column, entries in wanted.items():
        absent = [entry for entry in entries if entry not in info.names(column)]
        if absent:
            field = f"{root}/meta/info.json: features.{column}.names"
            raise InputError(field, info.names(column), f"{absent} among them ({embodiment.name})")
    return LeRobotDataset(info, metadata.read_episode_records(info), embodiment)


def _matrix(table: pa.Table, column: str) -> np.ndarray:
    """A list column as [T, n] float32."""
    rows = table[column].combine_chunks()
    if isinstance(rows, pa.ChunkedArray):
        rows = pa.concat_arrays(rows.chunks)
    if pa.types.is_floating(rows.type):
        return rows.to_numpy(zero_copy_only=False).astype(np.float32)[:, None]
    return np.asarray(rows.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(rows), -1)
