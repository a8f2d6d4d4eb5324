"""The index in memory: rows by token, splits, and the only access to annotations. Written by ``data/nuscenes.py``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.data.files import read_parquet, table_digest
from pdetr3d.schema import (
    CAMERAS,
    Boxes3D,
    CameraRecord,
    DataError,
    PointLabels,
    SampleRecord,
    SweepRecord,
)

LAYOUT = "1"  # of the columns; changes with INDEX_SCHEMA
ESCAPES = r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)"  # an absolute path, a drive, or a step up

_MATRIX = pa.list_(pa.float64(), 16)  # row-major 4x4
# One row per keyframe. Paths are relative to the dataroot. Lists named alike have equal lengths:
# sweep_* newest first (at most 9); camera_* and lidar2img in the order of CAMERAS (path null, size 0 where there is
# none); ann_* one item per annotation of the ten classes: label, box (x, y, z, l, w, h, yaw), velocity (vx, vy; NaN
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


@dataclass(frozen=True)
class Annotations:
    """The N annotations of one sample, all ten classes, with or without sensor points, LIDAR_TOP frame, float64.

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


class _Lists:
    """A list column (primitives, strings, fixed-size lists) as flat values and offsets: no Python object per item."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # a table of zero rows
            array = pa.array([], column.type)
        self.offsets = array.offsets.to_numpy(zero_copy_only=False)
        values = array.values
        width = 0
        if pa.types.is_fixed_size_list(values.type):
            width, values = values.type.list_size, values.values
        self.values = values.to_numpy(zero_copy_only=False)
        if width:
            self.values = self.values.reshape(-1, width)

    def __getitem__(self, row: int) -> NDArray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def _refuse_escapes(file: Path, table: pa.Table) -> None:
    """``build_index`` writes no such path; an index that came from elsewhere, or in a pack, may."""
    for name in ("lidar_path", "sweep_path", "camera_path"):
        paths = table.column(name)
        paths = pc.list_flatten(paths) if pa.types.is_list(paths.type) else paths
        bad = paths.filter(pc.match_substring_regex(paths, ESCAPES))
        if len(bad):
            raise DataError(
                f"{file}: {name} {bad[0].as_py()!r}: path escapes dataroot; names must be relative to it, without '..';"
                " make the index anew by pdetr3d index"
            )


class Index:
    """Read-only view of an index file.

    Attributes:
        path: the file. digest: hex digest of its content (independent of where dataroot lies).
        dataroot, version: as given to ``build_index``.
    """

    def __init__(self, path: Path, table: pa.Table) -> None:
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata.get("layout") != LAYOUT:
            raise DataError(
                f"{path}: not an index of this version (layout {metadata.get('layout')}, need {LAYOUT}); "
                "run pdetr3d index again"
            )
        self.path = path
        self.dataroot = Path(metadata["dataroot"])
        self.version = metadata["version"]
        self.table = table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA.with_metadata(table.schema.metadata))
        _refuse_escapes(path, self.table)
        self._row = {token: row for row, token in enumerate(table.column("sample_token").to_pylist())}
        self._lists: dict[str, Any] = {}

    @staticmethod
    def open(path: Path) -> Index:
        """Open what ``build_index`` wrote.

        Raises:
            DataError: when the file is missing, is not an index of this layout, or names files outside the dataroot.
        """
        return Index(Path(path), read_parquet(Path(path)))

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all columns."""
        return table_digest(self.table)

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def _split_tokens(self) -> dict[str, list[str]]:
        result: dict[str, list[str]] = {}
        tokens, splits = self.table.column("sample_token").to_pylist(), self.table.column("splits").to_pylist()
        for token, names in zip(tokens, splits, strict=True):
            for name in names:
                result.setdefault(name, []).append(token)
        return result

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have samples here, sorted."""
        return sorted(self._split_tokens)

    def tokens(self, split: str) -> list[str]:
        """Sample tokens of a split, in index order.

        Raises:
            DataError: when the split has no samples here; names those that have.
        """
        if split not in self._split_tokens:
            available = {name: len(tokens) for name, tokens in sorted(self._split_tokens.items())}
            close = difflib.get_close_matches(split, available, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DataError(
                f"split {split!r} has no samples in {self.path} ({self.version}): {hint}"
                f"available (samples): {available}"
            )
        return list(self._split_tokens[split])

    def row(self, token: str) -> int:
        """Row number of a sample.

        Raises:
            DataError: for an unknown token.
        """
        if token not in self._row:
            raise DataError(
                f"sample token {token!r} is not in {self.path} ({len(self)} samples of {self.version}, {self.dataroot})"
            )
        return self._row[token]

    def __contains__(self, token: str) -> bool:
        return token in self._row

    def value(self, token: str, column: str) -> Any:
        """One scalar or list of one sample as Python objects (e.g. ``scene_token``, ``timestamp_us``, ``location``)."""
        return self.table.column(column)[self.row(token)].as_py()

    def column(self, name: str, tokens: list[str]) -> list[Any]:
        """One column for many samples, in the order of ``tokens``."""
        return self.table.column(name).take([self.row(token) for token in tokens]).to_pylist()

    def _list(self, name: str, row: int) -> NDArray:
        if name not in self._lists:
            self._lists[name] = _Lists(self.table.column(name))
        return self._lists[name][row]

    def _matrix(self, name: str, row: int) -> NDArray[np.float64]:
        if name not in self._lists:
            self._lists[name] = (
                self.table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 4, 4)
            )
        return self._lists[name][row]

    def annotations(self, token: str) -> Annotations:
        """All annotations of a sample. For labeling and scoring; training sees only ``training_records``."""
        row = self.row(token)
        return Annotations(
            token=self._list("ann_token", row),
            label=self._list("ann_label", row),
            box=self._list("ann_box", row),
            velocity_m_s=self._list("ann_velocity_m_s", row),
            num_lidar_pts=self._list("ann_num_lidar_pts", row),
            num_radar_pts=self._list("ann_num_radar_pts", row),
        )

    def record(
        self, token: str, role: str = "unlabeled", boxes: Boxes3D | None = None, clicks: PointLabels | None = None
    ) -> SampleRecord:
        """Files and poses of a sample, with the labels given (none by default: annotations are never read here)."""
        row = self.row(token)
        return SampleRecord(
            sample_token=token,
            scene_token=self.table.column("scene_token")[row].as_py(),
            timestamp_us=self.table.column("timestamp_us")[row].as_py(),
            role=role,
            lidar_path=str(self.dataroot / self.table.column("lidar_path")[row].as_py()),
            sweeps=self._sweeps(row),
            cameras=self._cameras(row),
            lidar2ego=self._matrix("lidar2ego", row),
            ego2global=self._matrix("ego2global", row),
            boxes=Boxes3D.empty() if boxes is None else boxes,
            clicks=PointLabels.empty() if clicks is None else clicks,
        )

    def _sweeps(self, row: int) -> tuple[SweepRecord, ...]:
        columns = (self._list("sweep_path", row), self._list("sweep2lidar", row), self._list("sweep_dt_s", row))
        return tuple(
            SweepRecord(str(self.dataroot / path), matrix.reshape(4, 4), float(dt))
            for path, matrix, dt in zip(*columns, strict=True)
        )

    def _cameras(self, row: int) -> tuple[CameraRecord | None, ...]:
        columns = (self._list("camera_path", row), self._list("camera_size_px", row), self._list("lidar2img", row))
        cameras = tuple(
            None
            if path is None
            else CameraRecord(str(self.dataroot / path), int(size[0]), int(size[1]), matrix.reshape(4, 4))
            for path, size, matrix in zip(*columns, strict=True)
        )
        assert len(cameras) == len(CAMERAS)
        return cameras
