"""The index in memory: rows by token, splits, and the only access to annotations. Written by ``nuscenes.py``."""

from __future__ import annotations

import difflib
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.config import DataConfig
from pdetr3d.data.index.facts import PLAIN, IndexFacts
from pdetr3d.data.index.rows import INDEX_SCHEMA, REGION_SCHEMA, Annotations, RecordTable
from pdetr3d.data.storage.files import open_arrow, table_digest, write_arrow
from pdetr3d.data.storage.row_table import RowTable, TextPlaces, places, text_column
from pdetr3d.schema import Boxes3D, DataError, PointLabels, SampleRecord

FILE = "index.arrow"  # in a run directory
LAYOUT = "2"  # of the columns and the file; changes with INDEX_SCHEMA


def write_index(path: Path, table: pa.Table, dataroot: Path, version: str, facts: IndexFacts = PLAIN) -> None:
    """Write an index of INDEX_SCHEMA's columns (or REGION_SCHEMA's), atomically; its digest is stored with it, since it
    reads all of it."""
    digest = table_digest(table)
    if facts.identity != PLAIN.identity:
        digest = hashlib.sha256(f"{digest} {facts.identity}".encode()).hexdigest()[:16]
    metadata = {"dataroot": str(dataroot), "version": version, "layout": LAYOUT, "digest": digest}
    write_arrow(path, table.replace_schema_metadata(metadata | {"facts": facts.to_json()}))


class Index:
    """Read-only view of an index file.

    Attributes:
        path: the file. digest: 16 hex digits of its content (independent of where dataroot lies) and of how files are
            read, taken when written. facts: what else was found when it was made.
        dataroot, version: as given to ``build_index``. table: all columns. records: what records are made of.
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
        """Open what ``build_index`` wrote; its rows are read when they are asked for.

        Raises:
            DataError: when the file is missing or is not an index of this layout.
        """
        return Index(Path(path), open_arrow(Path(path), INDEX_SCHEMA, REGION_SCHEMA))

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def classes(self) -> ClassList:
        """That annotations and clicks are of."""
        return self.facts.classes

    @property
    def reading(self) -> DataConfig:
        """How the dataset's LiDAR files are read."""
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
        """Names of the splits that have samples here, sorted."""
        return sorted(self._split_rows)

    def tokens(self, split: str) -> list[str]:
        """Sample tokens of a split, in index order.

        Raises:
            DataError: when the split has no samples here; names those that have.
        """
        return self.token_column(split).to_pylist()

    def token_column(self, split: str) -> pa.ChunkedArray:
        """``tokens`` as a column, without an object for each."""
        return self.table.column("sample_token").take(pa.array(self.rows(split)))

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of a split, ascending.

        Raises:
            DataError: as ``tokens``.
        """
        if split not in self._split_rows:
            available = {name: len(rows) for name, rows in sorted(self._split_rows.items())}
            close = difflib.get_close_matches(split, available, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DataError(
                f"split {split!r} has no samples in {self.path} ({self.version}): {hint}"
                f"available (samples): {available}; {self.dataroot / self.version / 'splits.json'} may name the scenes "
                'of more ({"split name": ["scene name", ...]}): write it, then run pdetr3d index again'
            )
        return self._split_rows[split]

    def rows_of(self, tokens: pa.ChunkedArray) -> NDArray[np.int64]:
        """Row number of each of many samples; -1: unknown here."""
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
        """Annotation token -> LiDAR points, where the index counted them itself; else empty."""
        if not self.facts.counted:
            return {}
        tokens, counts = (pc.list_flatten(self.table.column(name)) for name in ("ann_token", "ann_num_lidar_pts"))
        return dict(zip(tokens.to_pylist(), counts.to_pylist(), strict=True))

    def annotations(self, token: str) -> Annotations:
        """All annotations of a sample. For labeling and scoring; training sees only ``training_records``."""
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
        """Files and poses of a sample, with the labels given (none by default: annotations are never read here).

        Raises:
            DataError: for an unknown token, or paths outside the dataroot.
        """
        boxes = Boxes3D.empty() if boxes is None else boxes
        return self.records.record(self.row(token), role, boxes, PointLabels.empty() if clicks is None else clicks)
