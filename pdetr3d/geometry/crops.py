"""Points round a click: upright cylinders, and the heading that the points in them suggest. Any frame with z up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GROUND_M = 0.2  # the lowest part of an object is left out: what lies there is mostly ground
MIN_POINTS = 5  # fewer say nothing about an axis


def in_cylinder(points_m: NDArray, center_m: NDArray, radius_m: float, z_m: tuple[float, float]) -> NDArray[np.bool_]:
    """Which of P points (P, 3+) lie within ``radius_m`` of ``center_m`` (3,) seen from above and ``z_m`` (low, high)
    above it, borders included: (P,) bool."""
    offset = np.asarray(points_m, np.float64)[:, :3] - np.asarray(center_m, np.float64)
    return (np.hypot(offset[:, 0], offset[:, 1]) <= radius_m) & (offset[:, 2] >= z_m[0]) & (offset[:, 2] <= z_m[1])


def principal_axis_rad(points_m: NDArray) -> float | None:
    """Direction in [0, pi) along which points (P, 2+) spread most seen from above; None for fewer than MIN_POINTS, or
    where no direction is the longest."""
    xy = np.asarray(points_m, np.float64)[:, :2]
    if len(xy) < MIN_POINTS:
        return None
    xx, xy_, _, yy = np.cov(xy.T, bias=True).ravel()
    if np.hypot(xx - yy, 2 * xy_) < 1e-9:
        return None
    return float(np.arctan2(2 * xy_, xx - yy) / 2 % np.pi)


def headings_from_points(
    points_m: NDArray, centers_m: NDArray, sizes_m: NDArray, default_rad: float
) -> NDArray[np.float64]:
    """Headings (K,) [rad] of boxes known by place and mean size only: principal axis of the points round each.

    The points: in a cylinder of half the footprint's diagonal round the place, from GROUND_M above the box's underside
    to its top. A box wider than long (a barrier) heads across the axis. Of the axis's two directions the one nearer to
    ``default_rad`` is taken; where the points show no axis, ``default_rad`` itself.

    Args:
        points_m: (P, 3+) [m]. centers_m: (K, 3) [m]. sizes_m: (K, 3) l, w, h [m].
    """
    headings = np.full(len(centers_m), default_rad, np.float64)
    for k, (center, (length, width, height)) in enumerate(zip(centers_m, np.asarray(sizes_m, np.float64), strict=True)):
        near = in_cylinder(points_m, center, np.hypot(length, width) / 2, (GROUND_M - height / 2, height / 2))
        axis = principal_axis_rad(points_m[near])
        if axis is not None:
            heading = axis + (np.pi / 2 if width > length else 0.0)
            headings[k] = heading if np.cos(heading - default_rad) >= 0 else heading + np.pi
    return (headings + np.pi) % (2 * np.pi) - np.pi
