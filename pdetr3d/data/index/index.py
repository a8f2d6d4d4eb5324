"""The index in memory: rows by token, splits, and the only access to annotations. Written by ``nuscenes.py``."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.class_list import NUSCENES_CLASSES, ClassList, read_classes
from pdetr3d.config import DataConfig
from pdetr3d.data.index.regions import POLYGONS, regions_of
from pdetr3d.data.storage.files import open_arrow, table_digest, write_arrow
from pdetr3d.data.storage.row_table import RowTable, TextPlaces, places, text_column
from pdetr3d.geometry.regions import Regions
from pdetr3d.schema import (
    CAMERAS,
    Boxes3D,
    CameraRecord,
    DataError,
    PointLabels,
    SampleRecord,
    SweepRecord,
)
from pdetr3d.tables.names import Names

FILE = "index.arrow"  # in a run directory
LAYOUT = "2"  # of the columns and the file; changes with INDEX_SCHEMA
READING = ("lidar_columns", "lidar_dtype", "lidar_ring", "nan_limit")  # keys under data. that an index keeps
ESCAPES = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)")  # an absolute path, a drive, or a step up

_MATRIX = pa.list_(pa.float64(), 16)  # row-major 4x4
# One row per keyframe. Paths are relative to the dataroot. Lists named alike have equal lengths:
# sweep_* newest first (at most 9); camera_* and lidar2img in the order of CAMERAS (path null, size 0 where there is
# none); ann_* one item per annotation that has a class: label, box (x, y, z, l, w, h, yaw), velocity (vx, vy; NaN
# unknown), counts.
INDEX_SCHEMA = pa.schema(
    [
        ("sample_token", pa.string()),
        ("scene_token", pa.string()),
        ("scene_name", pa.string()),
        ("log_token", pa.string()),
        ("location", pa.string()),
        ("splits", pa.list_(pa.string())),
        ("timestamp_us", pa.int64()),
        ("lidar_path", pa.string()),
        ("lidar2ego", _MATRIX),
        ("ego2global", _MATRIX),
        ("sweep_path", pa.list_(pa.string())),
        ("sweep2lidar", pa.list_(_MATRIX)),
        ("sweep_dt_s", pa.list_(pa.float64())),
        ("camera_path", pa.list_(pa.string())),
        ("camera_size_px", pa.list_(pa.list_(pa.int64(), 2))),
        ("lidar2img", pa.list_(_MATRIX)),
        ("ann_token", pa.list_(pa.string())),
        ("ann_label", pa.list_(pa.int64())),
        ("ann_box", pa.list_(pa.list_(pa.float64(), 7))),
        ("ann_velocity_m_s", pa.list_(pa.list_(pa.float64(), 2))),
        ("ann_num_lidar_pts", pa.list_(pa.int64())),
        ("ann_num_radar_pts", pa.list_(pa.int64())),
    ]
)
# Two columns more where a dataset brings regions (``regions.py``): as there, null of both where a sample has none.
REGION_COLUMNS = ["region_valid", "region_ignore"]
REGION_SCHEMA = pa.schema([*INDEX_SCHEMA, *((name, POLYGONS) for name in REGION_COLUMNS)])


@dataclass(frozen=True)
class Annotations:
    """The N annotations of one sample, of all classes, with or without sensor points, LIDAR_TOP frame, float64.

    Attributes:
        token: (N,) object array of annotation tokens.
        label: (N,) int64. box: (N, 7) x, y, z, l, w, h [m], yaw [rad]. velocity_m_s: (N, 2), NaN = unknown.
        num_lidar_pts, num_radar_pts: (N,) int64.
    """

    token: NDArray[np.object_]
    label: NDArray[np.int64]
    box: NDArray[np.float64]
    velocity_m_s: NDArray[np.float64]
    num_lidar_pts: NDArray[np.int64]
    num_radar_pts: NDArray[np.int64]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(N,) bool: with at least one LiDAR or radar point, i.e. used in training and prompting (method 7.2)."""
        return (self.num_lidar_pts + self.num_radar_pts) > 0

    def boxes(self) -> Boxes3D:
        """The kept ones as human boxes, in order."""
        kept, box = self.kept, self.box
        return Boxes3D.build(
            box[kept, :3], box[kept, 3:6], box[kept, 6], self.label[kept], velocity_m_s=self.velocity_m_s[kept]
        )


# What a record is made of: nothing of an annotation.
RECORD_COLUMNS = [
    "sample_token",
    "scene_token",
    "timestamp_us",
    "lidar_path",
    "lidar2ego",
    "ego2global",
    "sweep_path",
    "sweep2lidar",
    "sweep_dt_s",
    "camera_path",
    "camera_size_px",
    "lidar2img",
]


class RecordTable:
    """The rows of an index that records are made of.

    Attributes:
        rows: with RECORD_COLUMNS, or more. dataroot: that its paths are relative to. source: file named in messages.
        classes: of the dataset.
    """

    def __init__(self, rows: RowTable, dataroot: Path, source: Path, classes: ClassList) -> None:
        self.rows, self.dataroot, self.source, self.classes = rows, dataroot, source, classes

    def record(self, row: int, role: str, boxes: Boxes3D, clicks: PointLabels) -> SampleRecord:
        """The record of a row.

        Raises:
            DataError: when it names a file outside the dataroot: ``build_index`` writes no such path; an index that
                came from elsewhere, or in a pack, may.
        """
        rows = self.rows
        return SampleRecord(
            sample_token=rows.value("sample_token", row),
            scene_token=rows.value("scene_token", row),
            timestamp_us=rows.value("timestamp_us", row),
            role=role,
            lidar_path=self._file("lidar_path", rows.value("lidar_path", row)),
            sweeps=self._sweeps(row),
            cameras=self._cameras(row),
            lidar2ego=rows.matrix("lidar2ego", row),
            ego2global=rows.matrix("ego2global", row),
            boxes=boxes,
            clicks=clicks,
            regions=self._regions(row),
        )

    @property
    def has_regions(self) -> bool:
        """Whether the dataset brings regions."""
        return REGION_COLUMNS[0] in self.rows.table.column_names

    def _regions(self, row: int) -> Regions | None:
        if not self.has_regions:
            return None
        return regions_of(*(self.rows.value(name, row) for name in REGION_COLUMNS)) or None

    def take(self, rows: NDArray[np.int64]) -> RecordTable:
        """A copy of ascending rows, without annotations."""
        columns = RECORD_COLUMNS + (REGION_COLUMNS if self.has_regions else [])
        return RecordTable(self.rows.take(rows, columns), self.dataroot, self.source, self.classes)

    def _file(self, name: str, path: str) -> str:
        if (".." in path or path[:1] in "/\\" or ":" in path) and ESCAPES.search(path):
            raise DataError(
                f"{self.source}: {name} {path!r}: path escapes dataroot; names must be relative to it, without '..'; "
                "make the index anew by pdetr3d index"
            )
        return f"{self.dataroot}/{path}"

    def _sweeps(self, row: int) -> tuple[SweepRecord, ...]:
        columns = (self.rows.items(name, row) for name in ("sweep_path", "sweep2lidar", "sweep_dt_s"))
        return tuple(
            SweepRecord(self._file("sweep_path", path), matrix.reshape(4, 4), float(dt))
            for path, matrix, dt in zip(*columns, strict=True)
        )

    def _cameras(self, row: int) -> tuple[CameraRecord | None, ...]:
        columns = (self.rows.items(name, row) for name in ("camera_path", "camera_size_px", "lidar2img"))
        cameras = tuple(
            None
            if path is None
            else CameraRecord(self._file("camera_path", path), int(size[0]), int(size[1]), matrix.reshape(4, 4))
            for path, size, matrix in zip(*columns, strict=True)
        )
        assert len(cameras) == len(CAMERAS)
        return cameras


@dataclass(frozen=True)
class IndexFacts:
    """What an index knows beside its rows.

    Attributes:
        reading: how the dataset's files are read: ``data.lidar_*`` and ``data.nan_limit`` count. names: of the
            dataset's own. classes: that annotations are of. counted: annotations whose points the index counted itself,
            since the tables do not.
        unknown_categories: name -> annotations left out, being of none of the classes. missing_sweeps: files.
        links: files that are links which leave the dataroot. outside: annotations left out, since they lie where
            nothing is annotated, or in a region to ignore.
    """

    reading: DataConfig = DataConfig()
    names: Names = Names()
    classes: ClassList = NUSCENES_CLASSES
    counted: int = 0
    unknown_categories: Mapping[str, int] = field(default_factory=dict)
    missing_sweeps: int = 0
    links: int = 0
    outside: int = 0

    def to_json(self) -> str:
        """JSON text; ``from_json`` gives the equal facts back."""
        mine = {"reading": self._reading, "names": self.names.as_dict(), "classes": self.classes.text}
        value = vars(self) | mine
        return json.dumps(value, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> IndexFacts:
        """What ``to_json`` wrote; older indexes have none: "{}"."""
        value = json.loads(text)
        known = {"reading": DataConfig(**value.get("reading", {})), "names": Names.of(value.get("names", {}))}
        known["classes"] = read_classes(value.get("classes", ""))
        return IndexFacts(**value | known)

    @property
    def identity(self) -> str:
        """What of it changes the data that rows and files are."""
        reading = {key: value for key, value in self._reading.items() if key != "nan_limit"}  # refuses, changes nothing
        own = [self.classes.text] if self.classes.own else []
        return json.dumps([reading, self.names.as_dict(), *own], sort_keys=True)

    @property
    def _reading(self) -> dict[str, Any]:
        return {key: getattr(self.reading, key) for key in READING}


def write_index(path: Path, table: pa.Table, dataroot: Path, version: str, facts: IndexFacts = IndexFacts()) -> None:
    """Write an index of INDEX_SCHEMA's columns (or REGION_SCHEMA's), atomically; its digest is stored with it, since it
    reads all of it."""
    digest = table_digest(table)
    if facts.identity != IndexFacts().identity:
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
                f"available (samples): {available}"
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
