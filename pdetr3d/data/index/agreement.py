"""Checks that LiDAR files and tables belong together: counts points in boxes and compares with the tables' counts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.index.annotations import LIDAR, flat
from pdetr3d.data.index.point_counts import CAUSES, MANY, KeyframePoints
from pdetr3d.data.storage.points import check_points
from pdetr3d.schema import DataError

KEYFRAMES = 50  # keyframes whose points are counted, at most one per scene
FULL = 10  # a box is counted if the tables give it at least this many points
OFF = 20  # a file is refused when the median box differs from the tables' count by more than this factor
NEAR = 2  # a box differs when its count and the tables' differ by more than this factor
LIKE = 0.9  # a warning is given when fewer boxes than this share agree
LIFTED = 10  # keyframes whose boxes are also counted half their height higher
SEEN = 5  # boxes with at least this many points, here or there, are compared
HIGHER = 0.7  # a warning is given when more boxes than this share hold more points there


def refuse_other_points(table: pa.Table, dataroot: Path, data: DataConfig) -> list[str]:
    """Count the points in boxes again and refuse a dataset whose counts differ greatly from those of the tables.

    One keyframe of each scene is read: the one with most boxes of at least FULL points; only these boxes are counted.
    A keyframe with MANY such boxes is judged by itself; the others are judged together, if they have MANY in all.
    Files that cannot be read are skipped here: the check of files reports them.

    Args:
        table: of INDEX_SCHEMA. dataroot: of its paths. data: how LiDAR files are read.

    Returns:
        A warning when more than 1 - LIKE of the boxes differ by a factor above NEAR; else [].

    Raises:
        DataError: when the median box of a judged group has OFF times fewer or more points than the tables say.
    """
    table = table.combine_chunks()
    told, points = flat(table, LIDAR), KeyframePoints(table, dataroot, data)
    boxes = {row: at for row, at in _fullest(table, points, told).items() if len(at)}
    found = _found(points, boxes)
    many = [[row] for row in found if len(boxes[row]) >= MANY]
    few = [row for row in found if len(boxes[row]) < MANY]
    groups = many + ([few] if sum(len(boxes[row]) for row in few) >= MANY else [])
    if not groups:
        return []
    ratio = {row: found[row] / told[boxes[row]] for row in found}
    usual = [float(np.median(np.concatenate([ratio[row] for row in group]))) for group in groups]
    other = [group for group, median in zip(groups, usual, strict=True) if not 1 / OFF < median < OFF]
    if other:
        group = other[0]
        sums = [sum(int(each.sum()) for each in (values[r] for r in group)) for values in (found, _at(told, boxes))]
        others = f", and {len(group) - 1} more" if len(group) > 1 else ""
        raise DataError(
            f"{dataroot / points.files[group[0]]}{others}: {sums[0]} LiDAR points lie in "
            f"{sum(len(boxes[row]) for row in group)} boxes for which sample_annotation.json says {sums[1]} "
            f"(num_lidar_pts; {len(other)} of {len(groups)} files counted again differ so): files and tables do not "
            f"belong together; {CAUSES}. If only these counts are wrong, write -1: then pdetr3d counts the points"
        )
    every = np.concatenate([ratio[row] for group in groups for row in group])
    unlike = int(((every * NEAR < 1) | (every > NEAR)).sum())
    if unlike <= (1 - LIKE) * len(every):
        return []
    return [
        f"{unlike} of {len(every)} boxes that were counted again hold over {NEAR} times fewer or more LiDAR points "
        f"than num_lidar_pts says (first in {points.files[groups[0][0]]}). That is right if num_lidar_pts counts "
        "several sweeps or sensors. If not, sizes may not be in the order w, l, h, or rotations not in the order w, x, "
        "y, z"
    ]


def boxes_too_low(table: pa.Table, dataroot: Path, data: DataConfig) -> list[str]:
    """A warning when most boxes hold more LiDAR points half their height higher; else [].

    Args:
        table: of INDEX_SCHEMA, with counted points. dataroot: of its paths. data: how LiDAR files are read.
    """
    table = table.combine_chunks()
    points = KeyframePoints(table, dataroot, data)
    rows = list(_fullest(table, points, flat(table, LIDAR)))[:LIFTED]
    boxes = {row: np.arange(*points.offsets[row : row + 2]) for row in rows}
    found = [np.concatenate([*_found(points, boxes, lift).values(), []]) for lift in (0.0, 0.5)]
    seen = np.maximum(*found) >= SEEN
    more = int((found[1] > found[0])[seen].sum())
    if seen.sum() < MANY or more <= HIGHER * seen.sum():
        return []
    return [
        f"{more} of {int(seen.sum())} boxes that were counted again hold more LiDAR points when they are moved up by "
        "half their height: is z that of their bottom? In sample_annotation.json translation is the center of a box"
    ]


def _at(values: NDArray[np.int64], places: dict[int, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    return {row: values[at] for row, at in places.items()}


def _fullest(table: pa.Table, points: KeyframePoints, told: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Row -> indices of its full boxes among all annotations, for one row of each of up to KEYFRAMES scenes.

    A scene's row is the one with most boxes of FULL points; rows with more such boxes come first.
    """
    full = told >= FULL
    of_row = np.diff(np.r_[0, np.cumsum(full)][points.offsets])
    scene, chosen = table.column("scene_token").to_pylist(), dict[str, int]()
    for row in np.argsort(-of_row, kind="stable").tolist():
        chosen.setdefault(scene[row], row)
    bounds = {row: points.offsets[row : row + 2].tolist() for row in list(chosen.values())[:KEYFRAMES]}
    return {row: begin + np.flatnonzero(full[begin:end]) for row, (begin, end) in bounds.items()}


def _found(
    points: KeyframePoints, boxes: dict[int, NDArray[np.int64]], lift: float = 0.0
) -> dict[int, NDArray[np.int64]]:
    """Row -> counted points of each of its boxes; rows whose file cannot be read are left out."""

    def found(row: int) -> NDArray[np.int64] | None:
        try:
            check_points(points.dataroot / points.files[row], points.data)
            return points.count(row, boxes[row], lift)
        except DataError:
            return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = zip(boxes, pool.map(found, boxes), strict=True)
        return {row: each for row, each in made if each is not None}
