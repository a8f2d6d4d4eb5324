"""Counts the points in boxes for tables without counts: converters write -1, null, or 0 everywhere."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.index.annotations import LIDAR, RADAR, flat, kept
from pdetr3d.data.storage.points import read_lidar
from pdetr3d.geometry.boxes import points_in_each_box
from pdetr3d.geometry.rigid import apply, chain
from pdetr3d.progress import tracked
from pdetr3d.schema import DataError

log = logging.getLogger(__name__)
CAUSES = (
    "likely causes: columns in another order than x, y, z, intensity (data.lidar_columns); points in another unit than "
    "m, or in another frame than the sensor's own (calibrated_sensor.json takes them to the car, ego_pose.json to the "
    "world); boxes in another frame than the global one; files of another time"
)
MANY = 10  # a keyframe with at least this many boxes, all of them without points, is reported
NEAR_M = 20.0  # nearly every object within this distance of the sensor has points
NEARLY = 20  # boxes within NEAR_M that are needed for a judgment


def count_points(table: pa.Table, dataroot: Path, data: DataConfig, *, whole: bool = True) -> tuple[pa.Table, int]:
    """Count the keyframe's LiDAR points in each box whose ``ann_num_lidar_pts`` is negative.

    If no box of the dataset has a LiDAR or radar point, all boxes are counted. Unknown radar counts become 0.

    Args:
        table: of INDEX_SCHEMA. dataroot: of its paths. data: how LiDAR files are read. whole: False gives 0 points to
            the boxes of a file that cannot be read (its sample is left out later).

    Returns:
        The table with the counts, and the number of boxes that were counted.

    Raises:
        DataError: when a LiDAR file cannot be read and ``whole`` is True.
    """
    counts = {name: flat(table, name).copy() for name in (LIDAR, RADAR)}
    if len(counts[LIDAR]) and max(counts[LIDAR].max(), counts[RADAR].max()) <= 0:
        counts[LIDAR][:] = -1
    unknown = counts[LIDAR] < 0
    if not unknown.any() and not (counts[RADAR] < 0).any():
        return table, 0
    table = table.combine_chunks()
    counts[RADAR] = np.maximum(counts[RADAR], 0)
    if unknown.any():
        log.warning(
            "%d of %d objects have no count of points in sample_annotation.json (-1, null, or 0 everywhere): they are "
            "counted from the LiDAR files",
            unknown.sum(),
            len(unknown),
        )
        _count(points := KeyframePoints(table, dataroot, data), counts[LIDAR], unknown, whole)
        for line in no_points(points, counts[LIDAR], unknown):
            log.warning("%s", line)
    for name, values in counts.items():
        made = pa.ListArray.from_arrays(table.column(name).chunk(0).offsets, pa.array(values))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), made)
    return table, int(unknown.sum())


def usually_empty(table: pa.Table) -> str:
    """A warning when most boxes near the sensor hold no LiDAR or radar point, whoever counted them; else ""."""
    box = flat(table, "ann_box")
    near = np.hypot(box[:, 0], box[:, 1]) < NEAR_M
    bare = int((near & ~kept(table)).sum())
    if near.sum() < NEARLY or bare <= near.sum() / 2:
        return ""
    return f"{bare} of {int(near.sum())} boxes within {NEAR_M:g} m of the sensor hold no point; {CAUSES}"


class KeyframePoints:
    """The LiDAR points in an index's boxes, read from the files.

    Args:
        table: of INDEX_SCHEMA, in one chunk. dataroot: of its paths. data: how LiDAR files are read.

    Attributes:
        offsets: (rows + 1,): the annotations of a row are ``offsets[row] .. offsets[row + 1] - 1`` among all.
        files: each row's LiDAR file, relative to ``dataroot``. box: (N, 7) boxes of all annotations, LIDAR_TOP.
    """

    def __init__(self, table: pa.Table, dataroot: Path, data: DataConfig) -> None:
        self.dataroot, self.data = dataroot, data
        self.offsets = table.column(LIDAR).chunk(0).offsets.to_numpy()
        self.box = flat(table, "ann_box")
        names = ("lidar2ego", "ego2global")
        self._poses = [table.column(name).chunk(0).flatten().to_numpy().reshape(-1, 4, 4) for name in names]
        self.files = table.column("lidar_path").to_pylist()

    def count(self, row: int, mine: NDArray[np.int64], lift: float = 0.0) -> NDArray[np.int64]:
        """The number of points of a row's file in each of its boxes ``mine`` (indices among all annotations), (n,).

        Args:
            lift: the boxes are moved up by this share of their height.

        Raises:
            DataError: as ``read_lidar``.
        """
        points = read_lidar(self.dataroot / self.files[row], self.data)
        lidar2global = chain(self._poses[0][row], self._poses[1][row])
        upright = _upright(self.box[mine], lidar2global)
        upright[:, 2] += lift * upright[:, 5]
        inside = points_in_each_box(apply(lidar2global, points[:, :3]), upright[:, :3], upright[:, 3:6], upright[:, 6])
        return np.array([len(found) for found in inside], np.int64)


def _count(points: KeyframePoints, counts: NDArray[np.int64], unknown: NDArray[np.bool_], whole: bool) -> None:
    """Fill ``counts`` (N,) at the boxes that ``unknown`` (N,) marks; both are in the order of the annotations."""
    offsets = points.offsets

    def of_row(row: int) -> None:
        mine = np.flatnonzero(unknown[offsets[row] : offsets[row + 1]]) + offsets[row]
        if not len(mine):
            return
        counts[mine] = 0
        try:
            counts[mine] = points.count(row, mine)
        except DataError:
            if whole:
                raise

    rows = range(len(offsets) - 1)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in tracked(pool.map(of_row, rows), "counting points in boxes", len(rows), "keyframes"):
            pass


def _upright(box: NDArray[np.float64], lidar2global: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move boxes (n, 7) from the LIDAR_TOP frame to the global frame.

    nuScenes' boxes stand upright in the global frame, while the LiDAR is tilted. The result's heading is the horizontal
    one whose projection into the LIDAR_TOP frame is the box's yaw.
    """
    heading = np.stack([np.cos(box[:, 6]), np.sin(box[:, 6])], 1) @ np.linalg.inv(lidar2global[:2, :2].T).T
    return np.c_[apply(lidar2global, box[:, :3]), box[:, 3:6], np.arctan2(heading[:, 1], heading[:, 0])]


def no_points(points: KeyframePoints, counts: NDArray[np.int64], counted: NDArray[np.bool_]) -> list[str]:
    """A warning about keyframes in which all of MANY or more counted boxes are empty; [] if there are none.

    Args:
        counts: (N,) points of all boxes. counted: (N,) which boxes were counted here.
    """
    sums = [np.diff(np.r_[0, np.cumsum(each)][points.offsets]) for each in (counted, np.where(counted, counts, 0))]
    bare = np.flatnonzero((sums[0] >= MANY) & (sums[1] == 0))
    if not len(bare):
        return []
    return [
        f"{points.dataroot / points.files[bare[0]]}: not one LiDAR point lies in its {sums[0][bare[0]]} boxes "
        f"({len(bare)} of {len(points.files)} keyframes alike); {CAUSES}"
    ]
