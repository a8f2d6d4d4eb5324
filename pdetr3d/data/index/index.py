"""The index in memory: rows by token, splits, and the only access to annotations. ``nuscenes.py`` writes it."""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.config import DataConfig
from pdetr3d.data.index.annotations import LIDAR, Annotations, flat
from pdetr3d.data.index.facts import PLAIN, IndexFacts
from pdetr3d.data.index.rows import INDEX_SCHEMA, REGION_SCHEMA, RecordTable
from pdetr3d.data.storage.files import CHUNK_ROWS, open_arrow, table_digest, text_digest, write_arrow
from pdetr3d.data.storage.row_table import RowTable, TextPlaces, places, text_column
from pdetr3d.schema import Boxes3D, DataError, PointLabels, SampleRecord
from pdetr3d.words import close_to

FILE = "index.arrow"  # in a run directory
DIGITS = 6  # decimals of the floats (meters, radians, pixels, seconds) that the digest sees
PI = round(math.pi, DIGITS)
LAYOUT = "2"  # the version of the file's columns; raise it when INDEX_SCHEMA changes


def rounded_digest(table: pa.Table) -> str:
    """``table_digest`` with the floats rounded to DIGITS decimals: equal on all types of CPU, which round differently.

    Poses, boxes and calibrations are products of matrices; their last bits depend on the CPU. An angle of -pi is pi.
    """
    parts = []
    pieces = (table.slice(start, CHUNK_ROWS) for start in range(0, len(table), CHUNK_ROWS))
    for piece, name in itertools.product(pieces, table.column_names):
        column = piece[name].combine_chunks()
        while isinstance(column, pa.ListArray | pa.FixedSizeListArray):
            parts.append(pa.table({name: pc.list_value_length(column)}))
            column = pc.list_flatten(column)
        if pa.types.is_floating(column.type):
            column = pc.add(pc.round(column, DIGITS), 0.0)  # -0.0 + 0.0 is 0.0
            column = pc.if_else(pc.equal(column, -PI), PI, column)
        parts.append(pa.table({name: column}))
    return table_digest(*parts)


def write_index(path: Path, table: pa.Table, dataroot: Path, version: str, facts: IndexFacts = PLAIN) -> None:
    """Write an index (columns of INDEX_SCHEMA or REGION_SCHEMA) atomically.

    Its digest is stored in the file, because computing it reads every row.
    """
    digest = rounded_digest(table)
    if facts.identity != PLAIN.identity:
        digest = text_digest(f"{digest} {facts.identity}")
    metadata = {"dataroot": str(dataroot), "version": version, "layout": LAYOUT, "digest": digest}
    write_arrow(path, table.replace_schema_metadata(metadata | {"facts": facts.to_json()}))


class Index:
    """Read-only view of an index file.

    Attributes:
        path: the file. digest: 16 hex digits over its rows and ``facts.identity``; independent of the dataroot.
        facts: other facts about the dataset. dataroot, version: as given to ``build_index``. table: all columns.
        records: the rows as ``SampleRecord``s.
    """

    def __init__(self, path: Path, table: pa.Table) -> None:
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata.get("layout") != LAYOUT:
            raise DataError(
                f"{path}: not an index of this version (layout {metadata.get('layout')}, need {LAYOUT}); "
                "run pdetr3d index again"
            )
        self.path, self.table = path, table
        self.dataroot, self.version = Path(metadata["dataroot"]), metadata["version"]
        self.digest = metadata["digest"]
        self.facts = IndexFacts.from_json(metadata.get("facts", "{}"))
        self.records = RecordTable(RowTable(table), self.dataroot, path, self.classes)

    @staticmethod
    def open(path: Path) -> Index:
        """Open the file that ``build_index`` wrote. Rows are read from the mapped file when they are used.

        Raises:
            DataError: when the file is missing or is not an index of this layout.
        """
        return Index(Path(path), open_arrow(Path(path), INDEX_SCHEMA, REGION_SCHEMA))

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def classes(self) -> ClassList:
        """The classes of the dataset's annotations and clicks."""
        return self.facts.classes

    @property
    def reading(self) -> DataConfig:
        """The settings for reading the dataset's LiDAR files."""
        return self.facts.reading

    @cached_property
    def _split_rows(self) -> dict[str, NDArray[np.int64]]:
        splits = self.table.column("splits")
        names, rows = pc.list_flatten(splits), pc.list_parent_indices(splits).to_numpy()
        return {name: rows[pc.equal(names, name).to_numpy()] for name in pc.unique(names).to_pylist()}

    @cached_property
    def _row(self) -> TextPlaces:
        return TextPlaces(self.table.column("sample_token"))

    @property
    def splits(self) -> list[str]:
        """Sorted names of the splits that have samples in this index."""
        return sorted(self._split_rows)

    def tokens(self, split: str) -> list[str]:
        """Sample tokens of a split, in index order.

        Raises:
            DataError: when the split has no samples here; the message names the splits that have some.
        """
        return self.token_column(split).to_pylist()

    def token_column(self, split: str) -> pa.ChunkedArray:
        """``tokens`` as a column, without a Python object per token."""
        return self.table.column("sample_token").take(pa.array(self.rows(split)))

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of a split, ascending.

        Raises:
            DataError: as ``tokens``.
        """
        if split not in self._split_rows:
            available = {name: len(rows) for name, rows in sorted(self._split_rows.items())}
            raise DataError(
                f"split {split!r} has no samples in {self.path}, {self.version}{close_to(split, available)}; "
                f"available (samples): {available}; {self.dataroot / self.version / 'splits.json'} may name the scenes "
                'of more ({"split name": ["scene name", ...]}): write it, then run pdetr3d index again'
            )
        return self._split_rows[split]

    def rows_of(self, tokens: pa.ChunkedArray) -> NDArray[np.int64]:
        """Row number of each sample, (n,) int64; -1 for a token that is not in the index."""
        return places(tokens, self.table.column("sample_token"))

    def row(self, token: str) -> int:
        """Row number of a sample.

        Raises:
            DataError: for an unknown token.
        """
        try:
            return self._row[token]
        except KeyError:
            raise DataError(
                f"sample token {token!r} is not in {self.path} ({len(self)} samples of {self.version}, {self.dataroot})"
            ) from None

    def __contains__(self, token: str) -> bool:
        return token in self._row

    def value(self, token: str, column: str) -> Any:
        """One scalar or list of one sample as Python objects (e.g. ``scene_token``, ``timestamp_us``, ``location``)."""
        return self.table.column(column)[self.row(token)].as_py()

    def column(self, name: str, tokens: list[str]) -> list[Any]:
        """One column for many samples, in the order of ``tokens``."""
        rows = self.rows_of(text_column(tokens))
        for unknown in np.flatnonzero(rows < 0):
            self.row(tokens[unknown])  # raises
        return self.table.column(name).take(pa.array(rows)).to_pylist()

    def counted_points(self) -> dict[str, int]:
        """Annotation token -> number of LiDAR points, if the index counted points itself; else empty."""
        if not self.facts.counted:
            return {}
        tokens = pc.list_flatten(self.table.column("ann_token")).to_pylist()
        return dict(zip(tokens, flat(self.table, LIDAR).tolist(), strict=True))

    def annotations(self, token: str) -> Annotations:
        """All annotations of a sample, for labeling and scoring. Training sees only ``training_records``."""
        return self.annotations_of_row(self.row(token))

    def annotations_of_row(self, row: int) -> Annotations:
        """``annotations`` by row number."""
        items = self.records.rows.items
        return Annotations(
            token=items("ann_token", row),
            label=items("ann_label", row),
            box=items("ann_box", row),
            velocity_m_s=items("ann_velocity_m_s", row),
            num_lidar_pts=items("ann_num_lidar_pts", row),
            num_radar_pts=items("ann_num_radar_pts", row),
        )

    def record(
        self, token: str, role: str = "unlabeled", boxes: Boxes3D | None = None, clicks: PointLabels | None = None
    ) -> SampleRecord:
        """Files and poses of a sample, with the given labels. Annotations are not read: by default there are no labels.

        Raises:
            DataError: for an unknown token, or paths outside the dataroot.
        """
        boxes = Boxes3D.empty() if boxes is None else boxes
        return self.records.record(self.row(token), role, boxes, PointLabels.empty() if clicks is None else clicks)
