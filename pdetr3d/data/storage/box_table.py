"""Predicted boxes of many samples in a file mapped into memory: the driver holds row numbers instead of the boxes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.data.storage.files import CHUNK_ROWS
from pdetr3d.data.storage.row_table import TextPlaces
from pdetr3d.schema import BOX_COLUMNS, SOURCE_PSEUDO, Boxes3D

COLUMNS = [*BOX_COLUMNS, "vx", "vy", "label", "score", "direction"]
BOX_SCHEMA = pa.schema([(name, pa.int64() if name == "label" else pa.float64()) for name in COLUMNS])
# A row is a box; rows of one sample and checkpoint are neighbors, in the order of its boxes.
SCHEMA = pa.schema([*BOX_SCHEMA, ("sample_token", pa.string()), ("checkpoint", pa.int64())])


class BoxTable(Mapping[str, Boxes3D]):
    """Sample token -> boxes (LIDAR_TOP frame) of one checkpoint. A lookup builds the boxes from the file's rows.

    Args:
        table: the mapped table with COLUMNS. place: token -> number of the sample. bounds: (N, 2) int64; the rows of
            sample i are ``bounds[i, 0] .. bounds[i, 1] - 1``.
    """

    def __init__(self, table: pa.Table, place: TextPlaces, bounds: NDArray[np.int64]) -> None:
        self.table, self.place, self.bounds = table, place, bounds

    def __getitem__(self, token: str) -> Boxes3D:
        begin, end = (int(bound) for bound in self.bounds[self.place[token]])
        if begin == end:
            return Boxes3D.empty()
        part = self.table.slice(begin, end - begin)
        rows = np.stack([part[name].to_numpy().astype(np.float64) for name in COLUMNS], 1)
        return Boxes3D.build(
            rows[:, :3], rows[:, 3:6], rows[:, 6], rows[:, 9], velocity_m_s=rows[:, 7:9], score=rows[:, 10],
            direction=rows[:, 11], source=SOURCE_PSEUDO,
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        return iter(self.place)

    def __len__(self) -> int:
        return len(self.place)

    def __contains__(self, token: object) -> bool:
        return token in self.place  # the method of Mapping would build the boxes


class BoxTableWriter:
    """Collects parts in any order, writes them in blocks, and returns a ``BoxTable`` per checkpoint.

    Args:
        place: token -> number, of all samples; a sample for which no boxes are added has none. checkpoints: how many.
    """

    def __init__(self, place: TextPlaces, checkpoints: int) -> None:
        self.place = place
        self.bounds = np.zeros((checkpoints, len(place), 2), np.int64)
        self.rows, self.waiting, self.waiting_rows = 0, list[pa.Table](), 0
        descriptor, name = tempfile.mkstemp(prefix="pdetr3d_boxes_", suffix=".arrow")
        os.close(descriptor)
        self.path = Path(name)
        self.writer = pa.ipc.new_file(name, BOX_SCHEMA)

    def add(self, part: pa.Table) -> None:
        """Add rows of SCHEMA. All rows of a sample and checkpoint must come in one part.

        Raises:
            ValueError: when a sample's boxes of a checkpoint come a second time.
        """
        if not part.num_rows:
            return
        tokens = pc.dictionary_encode(part["sample_token"].combine_chunks())
        code, number = tokens.indices.to_numpy(), part["checkpoint"].to_numpy()
        begin = np.flatnonzero(np.r_[True, (np.diff(code) != 0) | (np.diff(number) != 0)])
        end = np.r_[begin[1:], part.num_rows]
        names = tokens.dictionary.to_pylist()
        for first, last in zip(begin.tolist(), end.tolist(), strict=True):
            where = (int(number[first]), self.place[names[code[first]]])
            if self.bounds[where][1]:
                raise ValueError(f"boxes of sample {names[code[first]]} came twice")
            self.bounds[where] = self.rows + first, self.rows + last
        self.rows += part.num_rows
        self.waiting.append(part.select(COLUMNS))
        self.waiting_rows += part.num_rows
        if self.waiting_rows >= CHUNK_ROWS:
            self._write()

    def _write(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.concat_tables(self.waiting).combine_chunks())
        self.waiting, self.waiting_rows = [], 0

    def close(self) -> list[BoxTable]:
        """Finish the file and return the boxes of each checkpoint.

        The file's name is removed here, so that the system frees the file when the last table is gone.
        """
        self._write()
        self.writer.close()
        table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        self.path.unlink()
        return [BoxTable(table, self.place, bounds) for bounds in self.bounds]

    def abort(self) -> None:
        """Remove the file after a failed prediction."""
        self.path.unlink(missing_ok=True)
