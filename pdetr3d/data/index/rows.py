"""Rows of an index: its columns, and the records that are made from them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.data.index.regions import POLYGONS, regions_of
from pdetr3d.data.storage.row_table import RowTable
from pdetr3d.geometry.regions import Regions
from pdetr3d.schema import CAMERAS, Boxes3D, CameraRecord, DataError, PointLabels, SampleRecord, SweepRecord

ESCAPES = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)")  # an absolute path, a drive, or a step up

_MATRIX = pa.list_(pa.float64(), 16)  # row-major 4x4
# One row per keyframe. Paths are relative to the dataroot. Lists with the same prefix have equal lengths:
# sweep_*: earlier sweeps, newest first (at most 9). camera_* and lidar2img: in the order of CAMERAS; a missing camera
# has path null and size 0. ann_*: one item per annotation that has a class: label, box (x, y, z, l, w, h, yaw),
# velocity (vx, vy; NaN = unknown), point counts.
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
# A dataset with regions (``regions.py``) has two more columns; both are null for a sample without regions.
REGION_COLUMNS = ["region_valid", "region_ignore"]
REGION_SCHEMA = pa.schema([*INDEX_SCHEMA, *((name, POLYGONS) for name in REGION_COLUMNS)])


# The columns that a record is made from: no column of annotations.
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
    """Makes records from the rows of an index.

    Attributes:
        rows: a table with RECORD_COLUMNS and possibly more. dataroot: paths are relative to it. source: the file that
            messages name. classes: of the dataset.
    """

    def __init__(self, rows: RowTable, dataroot: Path, source: Path, classes: ClassList) -> None:
        self.rows, self.dataroot, self.source, self.classes = rows, dataroot, source, classes

    def record(self, row: int, role: str, boxes: Boxes3D, clicks: PointLabels) -> SampleRecord:
        """The record of a row.

        Raises:
            DataError: when the row names a file outside the dataroot. ``build_index`` writes no such path, but an index
                from elsewhere, or in a pack, may have one.
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
        """Whether the dataset has regions."""
        return REGION_COLUMNS[0] in self.rows.table.column_names

    def _regions(self, row: int) -> Regions | None:
        if not self.has_regions:
            return None
        return regions_of(*(self.rows.value(name, row) for name in REGION_COLUMNS)) or None

    def take(self, rows: NDArray[np.int64]) -> RecordTable:
        """A copy of these rows, which must ascend, without annotations."""
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
