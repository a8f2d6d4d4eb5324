"""pseudo_labels.parquet: reading, writing and checking the table with one row per click; click_id is the join key."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pdetr3d.class_list import ClassList
from pdetr3d.data.storage.files import CHUNK_ROWS, atomic_path, read_parquet
from pdetr3d.data.storage.row_table import RowTable, give_back
from pdetr3d.schema import BOX_COLUMNS, SOURCE_PSEUDO, Boxes3D, DataError

# Boxes as in Boxes3D, in the keyframe's LIDAR_TOP frame. vx, vy: null = unknown. reason: why the box is not accepted;
# "snapped" for an accepted box that was moved onto its click; else "". direction may be absent: then it is 1.
PSEUDO_SCHEMA = pa.schema(
    [
        ("click_id", pa.string()),
        ("sample_token", pa.string()),
        *((name, pa.float64()) for name in BOX_COLUMNS),
        ("vx", pa.float64()),
        ("vy", pa.float64()),
        ("class", pa.string()),
        ("score", pa.float64()),
        ("direction", pa.float64()),
        ("accepted", pa.bool_()),
        ("reason", pa.string()),
        ("teacher_digest", pa.string()),
    ]
)
_NUMBERS = [*BOX_COLUMNS, "score", "direction"]


def write_pseudo_labels(
    path: Path,
    rows: pa.Table | pd.DataFrame | dict[str, Any] | list[dict[str, Any]],
    classes: ClassList,
) -> Path:
    """Write pseudo labels atomically, sorted by (sample_token, click_id), so that equal labels give equal files.

    Args:
        path: the Parquet file. rows: a table with the columns of PSEUDO_SCHEMA; vx, vy (NaN becomes null) and direction
            (default 1) may be absent. classes: the classes of the labels.

    Raises:
        DataError: when a column is missing or a row is invalid (``check_pseudo_labels``).
    """
    with PseudoLabelWriter(path, classes) as writer:
        writer.add(rows)
    return Path(path)


class PseudoLabelWriter:
    """Writes the file of ``write_pseudo_labels`` from parts in any order, and holds one part in memory at a time.

    The parts go to a temporary file, which is mapped at the end and written to ``path`` in sorted order. It is a
    context
    manager: after an error nothing is written to ``path``.

    Args:
        path: the Parquet file. classes: the classes of the labels.

    Attributes:
        rows, accepted: the numbers of rows and of accepted rows so far.
    """

    def __init__(self, path: Path, classes: ClassList) -> None:
        self.classes = classes
        self.path, self.rows, self.accepted = Path(path), 0, 0
        # The tokens of the samples so far, and the rows (begin, end) of each in the temporary file.
        self._tokens, self._bounds = list[pa.Array](), [np.zeros((0, 2), np.int64)]
        descriptor, name = tempfile.mkstemp(prefix="pdetr3d_labels_", suffix=".arrow")
        os.close(descriptor)
        self._parts = Path(name)
        self._writer = pa.ipc.new_file(name, PSEUDO_SCHEMA)

    def add(self, rows: pa.Table | pd.DataFrame | dict[str, Any] | list[dict[str, Any]]) -> None:
        """Add all rows of some samples, in the form that ``write_pseudo_labels`` takes.

        If a sample's rows come in two parts, leaving the context raises ValueError.

        Raises:
            DataError: as ``write_pseudo_labels``.
        """
        if isinstance(rows, pa.Table):
            rows = rows.to_pandas()
        frame = pd.DataFrame(rows, columns=None if len(rows) else PSEUDO_SCHEMA.names)
        for name in ("vx", "vy"):
            frame[name] = frame[name].astype(float) if name in frame else np.nan
        if "direction" not in frame:
            frame["direction"] = 1.0
        missing = [name for name in PSEUDO_SCHEMA.names if name not in frame]
        if missing:
            needed = PSEUDO_SCHEMA.names
            raise DataError(f"pseudo labels for {self.path}: column(s) {missing} missing; needed: {needed}")
        frame = frame[PSEUDO_SCHEMA.names].sort_values(["sample_token", "click_id"], kind="stable")
        table = pa.Table.from_pandas(frame, schema=PSEUDO_SCHEMA, preserve_index=False).replace_schema_metadata(None)
        check_pseudo_labels(self.path, table, self.classes)
        tokens, first, count = np.unique(frame["sample_token"].to_numpy(object), return_index=True, return_counts=True)
        self._tokens.append(pa.array(tokens, pa.string()))
        self._bounds.append(self.rows + np.stack([first, first + count], 1))
        self._writer.write_table(table.combine_chunks())
        self.rows += len(table)
        self.accepted += int(frame["accepted"].sum())
        del table
        give_back()

    def __enter__(self) -> PseudoLabelWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._writer.close()
        try:
            if error is None:
                self._write(RowTable(pa.ipc.open_file(pa.memory_map(str(self._parts))).read_all()))
        finally:
            self._parts.unlink()

    def _write(self, table: RowTable) -> None:
        """Write the file in row groups of CHUNK_ROWS rows, with the samples in the order of their tokens."""
        tokens, bounds = pa.chunked_array(self._tokens, pa.string()), np.concatenate(self._bounds)
        order = pc.sort_indices(tokens).to_numpy()
        ordered = tokens.take(order)
        again = pc.equal(ordered.slice(1), ordered.slice(0, max(0, len(order) - 1)))
        if pc.any(again).as_py():
            raise ValueError(f"pseudo labels of sample {ordered.slice(1).filter(again)[0]} came twice")
        with atomic_path(self.path) as temporary, pq.ParquetWriter(temporary, PSEUDO_SCHEMA) as writer:
            waiting, count = list[pa.Table](), 0
            for begin, end in (bounds[place].tolist() for place in order):
                waiting.append(table.span(tuple(PSEUDO_SCHEMA.names), begin, end))
                count += end - begin
                if count >= CHUNK_ROWS:
                    whole = pa.concat_tables(waiting).combine_chunks()
                    full = count - count % CHUNK_ROWS
                    writer.write_table(whole.slice(0, full), row_group_size=CHUNK_ROWS)
                    waiting, count = [whole.slice(full)], count - full
            if count or not self.rows:
                writer.write_table(pa.concat_tables([PSEUDO_SCHEMA.empty_table(), *waiting]).combine_chunks())


def read_pseudo_labels(path: Path, classes: ClassList) -> pa.Table:
    """Read and check pseudo labels.

    Raises:
        DataError: when the file is missing, has other columns, or a row is invalid (``check_pseudo_labels``).
    """
    table = read_parquet(Path(path), PSEUDO_SCHEMA)
    check_pseudo_labels(Path(path), table, classes)
    return table


def to_boxes(rows: pd.DataFrame, classes: ClassList) -> Boxes3D:
    """Convert rows, whose numbers must be finite, to pseudo boxes in the same order; null velocities become NaN."""
    numbers = rows[[*BOX_COLUMNS, "vx", "vy", "score", "direction"]].to_numpy(float)
    return Boxes3D.build(
        numbers[:, :3],
        numbers[:, 3:6],
        numbers[:, 6],
        np.array([classes.label_of[name] for name in rows["class"]], np.int64),
        velocity_m_s=numbers[:, 7:9],
        score=numbers[:, 9],
        direction=numbers[:, 10],
        source=SOURCE_PSEUDO,
    )


def surest_directions(boxes: Boxes3D, share: float, classes: ClassList) -> Boxes3D:
    """Boxes of whose directions the surest ``share`` is taken as known (1), and the rest as unknown (0.5).

    The rank of ``direction`` decides, not its value: a teacher of a few frames is too sure of all. Boxes of classes
    without a direction do not count.
    """
    directed = ~np.isin(boxes.label, classes.labels("axis", "none"))
    least = np.quantile(boxes.direction[directed], 1 - share, method="higher") if directed.any() else 0.0
    return replace(boxes, direction=np.where(boxes.direction >= least, 1.0, 0.5).astype(np.float32))


def check_pseudo_labels(path: Path, table: pa.Table, classes: ClassList) -> None:
    """Raise DataError for a repeated click_id, a class that is not in the list, or an accepted box that is invalid."""
    frame = table.to_pandas()
    repeated = frame["click_id"][frame["click_id"].duplicated()]
    if len(repeated):
        raise DataError(
            f"{path}: click_id {repeated.iloc[0]!r} occurs more than once ({len(repeated)} repeats); one row per click"
        )
    classes.refuse_unknown(set(frame["class"]), str(path))
    accepted = frame[frame["accepted"].astype(bool)]
    numbers = accepted[_NUMBERS].to_numpy(float)
    bad = ~(
        np.isfinite(numbers).all(1)
        & (numbers[:, 3:6] > 0).all(1)
        & (numbers[:, 7:] >= 0).all(1)
        & (numbers[:, 7:] <= 1).all(1)
    )
    if bad.any():
        row = accepted[bad].iloc[0]
        values = {name: float(row[name]) for name in _NUMBERS}
        raise DataError(
            f"{path}: click_id {row['click_id']!r} is accepted but {values}: "
            "all must be finite, l, w, h > 0, score and direction in [0, 1]"
        )
