"""Points in boxes where the tables do not count them: -1, null, or 0 everywhere, as converters write."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.progress import track

from pdetr3d.config import DataConfig
from pdetr3d.data.storage.points import read_lidar
from pdetr3d.geometry.boxes import points_in_each_box
from pdetr3d.geometry.rigid import apply, chain
from pdetr3d.schema import DataError

log = logging.getLogger(__name__)
LIDAR, RADAR = "ann_num_lidar_pts", "ann_num_radar_pts"


def count_points(table: pa.Table, dataroot: Path, data: DataConfig, *, whole: bool = True) -> tuple[pa.Table, int]:
    """Count the keyframe's LiDAR points in each box whose ``ann_num_lidar_pts`` is negative; in all boxes where the
    whole dataset has not one LiDAR or radar point. Unknown radar counts become 0.

    Args:
        table: of INDEX_SCHEMA. data: how LiDAR files are read. whole: False: boxes of a file that cannot be read keep
            0 points (the sample is left out later).

    Returns:
        The table, and in how many boxes points were counted.
    """
    counts = {name: pc.list_flatten(table.column(name)).to_numpy().copy() for name in (LIDAR, RADAR)}
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
        _count(table, dataroot, data, counts[LIDAR], unknown, whole)
    for name, values in counts.items():
        made = pa.ListArray.from_arrays(table.column(name).chunk(0).offsets, pa.array(values))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), made)
    return table, int(unknown.sum())


def _count(
    table: pa.Table,
    dataroot: Path,
    data: DataConfig,
    counts: NDArray[np.int64],
    unknown: NDArray[np.bool_],
    whole: bool,
) -> None:
    """Fill ``counts`` where ``unknown``: (N,) of all boxes, one row's after another's."""
    offsets = table.column(LIDAR).chunk(0).offsets.to_numpy()
    box = table.column("ann_box").chunk(0).values.flatten().to_numpy().reshape(-1, 7)
    poses = [table.column(name).chunk(0).flatten().to_numpy().reshape(-1, 4, 4) for name in ("lidar2ego", "ego2global")]
    paths = table.column("lidar_path").to_pylist()

    def of_row(row: int) -> None:
        mine = np.flatnonzero(unknown[offsets[row] : offsets[row + 1]]) + offsets[row]
        if not len(mine):
            return
        counts[mine] = 0
        try:
            points = read_lidar(dataroot / paths[row], data)
        except DataError:
            if whole:
                raise
            return
        upright = _upright(box[mine], lidar2global := chain(poses[0][row], poses[1][row]))
        inside = points_in_each_box(apply(lidar2global, points[:, :3]), upright[:, :3], upright[:, 3:6], upright[:, 6])
        counts[mine] = [len(found) for found in inside]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in track(pool.map(of_row, range(table.num_rows)), "counting points in boxes", total=table.num_rows):
            pass


def _upright(box: NDArray[np.float64], lidar2global: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes (n, 7) of the LIDAR_TOP frame in the global one, where nuScenes' stand upright (the LiDAR is tilted): the
    heading is the level one that the box's yaw is the projection of."""
    heading = np.stack([np.cos(box[:, 6]), np.sin(box[:, 6])], 1) @ np.linalg.inv(lidar2global[:2, :2].T).T
    return np.c_[apply(lidar2global, box[:, :3]), box[:, 3:6], np.arctan2(heading[:, 1], heading[:, 0])]
