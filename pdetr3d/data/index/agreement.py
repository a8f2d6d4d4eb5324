"""Whether LiDAR files and tables belong together: points in boxes are counted again where the tables tell how many."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.config import DataConfig
from pdetr3d.data.index.point_counts import CAUSES, LIDAR, MANY, KeyframePoints
from pdetr3d.data.storage.points import check_points
from pdetr3d.schema import DataError

log = logging.getLogger(__name__)

KEYFRAMES = 50  # that are counted again, of as many scenes
FULL = 10  # points that the tables tell of a box that is counted again
OFF = 20  # times fewer or more points in the usual box than told: these are not its points
NEAR = 2  # times fewer or more points than told are like what is told
LIKE = 0.9  # share of boxes that must be


def refuse_other_points(table: pa.Table, dataroot: Path, data: DataConfig) -> None:
    """Count again in the fullest keyframe of each scene: boxes of which the tables tell FULL points or more.

    Keyframes with MANY such boxes are judged each by itself, the others together, if they have so many. Files that
    are broken are left to the check of files.

    Args:
        table: of INDEX_SCHEMA. data: how LiDAR files are read.

    Raises:
        DataError: where the usual (median) box of a keyframe has OFF times fewer or more points than told. A warning is
            given where many boxes differ by a factor of NEAR.
    """
    table = table.combine_chunks()
    told, points = pc.list_flatten(table.column(LIDAR)).to_numpy(), KeyframePoints(table, dataroot, data)
    boxes = {row: at for row, at in _fullest(table, points, told).items() if len(at)}
    found = _found(points, boxes)
    many = [[row] for row in found if len(boxes[row]) >= MANY]
    few = [row for row in found if len(boxes[row]) < MANY]
    groups = many + ([few] if sum(len(boxes[row]) for row in few) >= MANY else [])
    if not groups:
        return
    ratio = {row: found[row] / told[boxes[row]] for row in found}
    usual = [float(np.median(np.concatenate([ratio[row] for row in group]))) for group in groups]
    other = [group for group, median in zip(groups, usual, strict=True) if not 1 / OFF < median < OFF]
    if other:
        group = other[0]
        sums = [sum(int(each.sum()) for each in (values[r] for r in group)) for values in (found, _at(told, boxes))]
        others = f", and {len(group) - 1} more" if len(group) > 1 else ""
        raise DataError(
            f"{dataroot / points.files[group[0]]}{others}: {sums[0]} LiDAR points lie in "
            f"{sum(len(boxes[row]) for row in group)} boxes of which sample_annotation.json tells {sums[1]} "
            f"(num_lidar_pts; {len(other)} of {len(groups)} files counted again differ so): files and tables do not "
            f"belong together; {CAUSES}. Where only these counts are wrong, write -1: they are counted here then"
        )
    every = np.concatenate([ratio[row] for group in groups for row in group])
    unlike = int(((every * NEAR < 1) | (every > NEAR)).sum())
    if unlike > (1 - LIKE) * len(every):
        log.warning(
            "%s: %d of %d boxes that were counted again hold over %d times fewer or more LiDAR points than "
            "num_lidar_pts tells: right where these are of several sweeps or sensors; else sides may not be in the "
            "order w, l, h, or rotations not w, x, y, z",
            dataroot / points.files[groups[0][0]],
            unlike,
            len(every),
            NEAR,
        )


def _at(values: NDArray[np.int64], places: dict[int, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    return {row: values[at] for row, at in places.items()}


def _fullest(table: pa.Table, points: KeyframePoints, told: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Of up to KEYFRAMES scenes the row with most full boxes, fullest first, and which boxes these are."""
    full = told >= FULL
    of_row = np.diff(np.r_[0, np.cumsum(full)][points.offsets])
    scene, chosen = table.column("scene_token").to_pylist(), dict[str, int]()
    for row in np.argsort(-of_row, kind="stable").tolist():
        chosen.setdefault(scene[row], row)
    bounds = {row: points.offsets[row : row + 2].tolist() for row in list(chosen.values())[:KEYFRAMES]}
    return {row: begin + np.flatnonzero(full[begin:end]) for row, (begin, end) in bounds.items()}


def _found(points: KeyframePoints, boxes: dict[int, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    """Points in these boxes, of the rows whose files are whole."""

    def found(row: int) -> NDArray[np.int64] | None:
        try:
            check_points(points.dataroot / points.files[row], points.data)
            return points.count(row, boxes[row])
        except DataError:
            return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = zip(boxes, pool.map(found, boxes), strict=True)
        return {row: each for row, each in made if each is not None}
