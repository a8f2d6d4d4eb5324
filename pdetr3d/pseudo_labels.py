"""Pseudo labels as a table: one row per click, joined by click_id, never by position (design section 6)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import rotate_z
from pdetr3d.geometry.crops import axes_from_points
from pdetr3d.schema import CLASSES, SOURCE_PSEUDO, Boxes3D, PointLabels, SampleRecord

RANGE_M = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)  # method.md 1.5
CLICK_TOLERANCE_M = 0.1
SIZE_RATIO_MAX = 3.0
FLOORS = ("class_mean", "class_mean_pca")  # what a report measures beside a teacher: boxes that need no training

# Column order and dtypes of pseudo_labels.parquet; Float32 is pandas' nullable type: Parquet gets nulls, not NaN.
COLUMNS = {
    "click_id": "string",
    "sample_token": "string",
    **dict.fromkeys(("x", "y", "z", "l", "w", "h", "yaw"), "float32"),
    **dict.fromkeys(("vx", "vy"), "Float32"),
    "class": "string",
    "score": "float32",
    "accepted": "bool",
    "reason": "string",
    "teacher_digest": "string",
}


def class_mean_boxes(
    clicks: PointLabels, prior_size_m: NDArray[np.floating], yaw_rad: NDArray[np.floating] | None = None
) -> Boxes3D:
    """The floor that a teacher must beat: the class-mean box centered on each click, heading forward (+y) unless given.

    Args:
        clicks: K clicks, LIDAR_TOP frame.
        prior_size_m: (10, 3) mean (l, w, h) [m] per class.
        yaw_rad: (K,) headings [rad]; default pi / 2, the way most traffic round the ego vehicle drives.

    Returns:
        K pseudo labels in the order of the clicks, score 1.
    """
    yaw = np.full(len(clicks), np.pi / 2) if yaw_rad is None else yaw_rad
    return Boxes3D.build(clicks.xyz_m, np.asarray(prior_size_m)[clicks.label], yaw, clicks.label, source=SOURCE_PSEUDO)


def class_mean_pca_boxes(clicks: PointLabels, prior_size_m: NDArray[np.floating], points_m: NDArray) -> Boxes3D:
    """A stronger floor: ``class_mean_boxes`` that head along the LiDAR points round each click.

    Along ``geometry.crops.axes_from_points``, forward (+y) rather than back; forward where there is no axis.

    Args:
        clicks, prior_size_m: as ``class_mean_boxes``. points_m: (P, 3+) LiDAR points of the sample, LIDAR_TOP frame.
    """
    sizes = np.asarray(prior_size_m, np.float32)[clicks.label]
    arrays = (np.asarray(a, np.float32) for a in (points_m, clicks.xyz_m, sizes))
    cos, sin = axes_from_points(*map(torch.from_numpy, arrays)).numpy().T
    yaw = np.where((cos == 0) & (sin == 0), np.pi / 2, np.arctan2(sin, cos) / 2 % np.pi)
    return class_mean_boxes(clicks, prior_size_m, yaw)


def contains_click(
    boxes: Boxes3D, xyz_m: NDArray[np.floating], tolerance_m: float = CLICK_TOLERANCE_M
) -> NDArray[np.bool_]:
    """Whether box i, grown by ``tolerance_m`` on every side, contains point i: (N,) bool from (N, 3) points [m]."""
    offset = np.asarray(xyz_m, dtype=np.float64).reshape(-1, 3) - boxes.center_m
    local = rotate_z(offset, -boxes.yaw_rad.astype(np.float64))
    return (np.abs(local) <= boxes.size_m / 2 + tolerance_m).all(axis=1)


def to_pseudo_labels(
    record: SampleRecord,
    boxes: Boxes3D,
    prior_size_m: NDArray[np.floating],
    teacher_digest: str,
    range_m: tuple[float, float, float, float, float, float] = RANGE_M,
) -> pd.DataFrame:
    """One row per click of a sample, in the order of its clicks; columns and dtypes as ``COLUMNS``.

    The class is the click's; the velocity is null (the teacher's is not trained). A row is kept but not ``accepted``,
    with the first ``reason`` that applies, when the box's center lies outside ``range_m`` ("outside range"), a side is
    under 1/3 or over 3 times the class prior's ("implausible size"), or the box grown by 0.1 m does not contain its
    click ("click outside box"). Accepted rows have reason "".

    Args:
        record: the sample; its clicks are used.
        boxes: one box per click, in the order of the clicks, LIDAR_TOP frame; labels of the boxes are ignored.
        prior_size_m: (10, 3) mean (l, w, h) [m] per class.
        teacher_digest: names the teacher that made the boxes.
        range_m: (x0, y0, z0, x1, y1, z1) [m], both ends inside.

    Raises:
        ValueError: when there is not exactly one box per click.
    """
    clicks = record.clicks
    if len(boxes) != len(clicks):
        raise ValueError(f"sample {record.sample_token}: {len(boxes)} boxes for {len(clicks)} clicks; must be one each")
    ratio = boxes.size_m / np.asarray(prior_size_m, dtype=np.float64)[clicks.label]
    low, high = np.array(range_m, dtype=np.float32).reshape(2, 3)
    inside_range = ((boxes.center_m >= low) & (boxes.center_m <= high)).all(axis=1)
    plausible = ((ratio >= 1 / SIZE_RATIO_MAX) & (ratio <= SIZE_RATIO_MAX)).all(axis=1)
    reason = np.select(
        [~inside_range, ~plausible, ~contains_click(boxes, clicks.xyz_m)],
        ["outside range", "implausible size", "click outside box"],
        default="",
    )
    geometry = np.column_stack([boxes.center_m, boxes.size_m, boxes.yaw_rad])
    frame = pd.DataFrame(
        {
            "click_id": clicks.click_id,
            "sample_token": record.sample_token,
            **dict(zip("x y z l w h yaw".split(), geometry.T, strict=True)),
            "vx": pd.NA,
            "vy": pd.NA,
            "class": np.array(CLASSES, dtype=object)[clicks.label],
            "score": boxes.score,
            "accepted": reason == "",
            "reason": reason,
            "teacher_digest": teacher_digest,
        },
        index=range(len(clicks)),
    )
    return frame.astype(COLUMNS)
