"""Counts of LiDAR and radar points in annotations: which annotations are kept, and which counts mean "not counted"."""

from __future__ import annotations

import math
from typing import Any


def has_points(num_lidar_pts: Any, num_radar_pts: Any) -> Any:
    """Whether an annotation has a LiDAR or radar point: only such annotations are kept (method 7.2).

    Args:
        num_lidar_pts, num_radar_pts: two numbers or two arrays (N,), at least 0.

    Returns:
        bool, or (N,) bool.
    """
    return num_lidar_pts + num_radar_pts > 0


def not_counted(count: Any) -> bool:
    """Whether a count of points means "not counted": null, NaN or a negative number, as converters write."""
    return count is None or (isinstance(count, float) and math.isnan(count)) or count < 0
