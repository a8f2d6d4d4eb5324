"""The annotations of an index: those of one sample, or the columns of all, and which of them are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.schema import Boxes3D
from pdetr3d.tables.counts import has_points

LIDAR, RADAR = "ann_num_lidar_pts", "ann_num_radar_pts"  # columns of INDEX_SCHEMA


def kept(table: pa.Table) -> NDArray[np.bool_]:
    """(N,) bool: which of all annotations of a table (INDEX_SCHEMA) are kept, in the order of rows."""
    return has_points(flat(table, LIDAR), flat(table, RADAR))


def flat(table: pa.Table, name: str) -> NDArray[Any]:
    """The numbers of a column of lists, in the order of rows: all N annotations of a table.

    Args:
        table: with the column ``name`` of INDEX_SCHEMA, e.g. "ann_label" or "ann_box".

    Returns:
        (N,), or (N, width) for boxes and velocities; a copy or a view of the column.
    """
    items = pc.list_flatten(table[name])
    if not pa.types.is_fixed_size_list(items.type):
        return items.to_numpy()
    return pc.list_flatten(items).to_numpy().reshape(-1, items.type.list_size)


def row_of(table: pa.Table) -> NDArray[np.int64]:
    """(N,) int64: the row of each annotation of a table (INDEX_SCHEMA)."""
    return np.repeat(np.arange(table.num_rows), pc.list_value_length(table["ann_label"]).to_numpy())


@dataclass(frozen=True)
class Annotations:
    """The N annotations of one sample in the LIDAR_TOP frame: all classes, with or without sensor points.

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
        """(N,) bool: the annotations that are used (``has_points``)."""
        return has_points(self.num_lidar_pts, self.num_radar_pts)

    def boxes(self) -> Boxes3D:
        """The kept annotations as human boxes, in order."""
        mine = self.kept
        return human_boxes(self.box[mine], self.label[mine], self.velocity_m_s[mine])


def human_boxes(box: NDArray[np.float64], label: NDArray[np.int64], velocity_m_s: NDArray[np.float64]) -> Boxes3D:
    """Annotated boxes as ``Boxes3D``. Args: box: (N, 7). label: (N,). velocity_m_s: (N, 2), NaN = unknown."""
    return Boxes3D.build(box[:, :3], box[:, 3:6], box[:, 6], label, velocity_m_s=velocity_m_s)
