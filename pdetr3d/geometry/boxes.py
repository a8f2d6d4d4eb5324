"""Geometry of boxes: corners, points inside, BEV overlap, and conversion from and to nuScenes' convention.

Our convention: gravity center, (l, w, h) with l along the heading, yaw counter-clockwise about +z from +x. nuScenes':
gravity center, (w, l, h), unit quaternion (w, x, y, z).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

from pdetr3d.geometry.rigid import apply, wrap_angle

# Unit corners in the box frame: 0-3 bottom (front-left, front-right, rear-right, rear-left), 4-7 above them.
UNIT_CORNERS = np.array(
    [[1, 1, -1], [1, -1, -1], [-1, -1, -1], [-1, 1, -1], [1, 1, 1], [1, -1, 1], [-1, -1, 1], [-1, 1, 1]],
    dtype=np.float64,
)
# Pairs of corner indices: 4 bottom, 4 top, 4 upright edges.
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])


def rotate_z(vectors: NDArray, yaw_rad: NDArray) -> NDArray[np.float64]:
    """Rotate ``vectors`` (..., 3) or (..., 2) counter-clockwise about +z by ``yaw_rad`` (broadcast); float64."""
    result = np.array(
        np.broadcast_to(vectors, (*np.broadcast_shapes(vectors.shape[:-1], np.shape(yaw_rad)), vectors.shape[-1])),
        np.float64,
    )
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    result[..., 0] = cos * vectors[..., 0] - sin * vectors[..., 1]
    result[..., 1] = sin * vectors[..., 0] + cos * vectors[..., 1]
    return result


def corners(center_m: NDArray, size_m: NDArray, yaw_rad: NDArray) -> NDArray[np.float64]:
    """Corners of N boxes in the order of UNIT_CORNERS.

    Args:
        center_m: (N, 3) [m]. size_m: (N, 3) l, w, h [m]. yaw_rad: (N,).

    Returns:
        (N, 8, 3) float64 [m].
    """
    size = np.asarray(size_m, np.float64).reshape(-1, 1, 3)
    yaw = np.asarray(yaw_rad, np.float64).reshape(-1, 1)
    return rotate_z(UNIT_CORNERS * size / 2, yaw) + np.asarray(center_m, np.float64).reshape(-1, 1, 3)


def points_in_boxes(points_m: NDArray, center_m: NDArray, size_m: NDArray, yaw_rad: NDArray) -> NDArray[np.bool_]:
    """Which of P points (P, 3+) [m] lie in which of N boxes, faces included: (N, P) bool.

    Args:
        center_m: (N, 3) [m]. size_m: (N, 3) l, w, h [m]. yaw_rad: (N,). A single box may come without the first axis.
    """
    points = np.asarray(points_m, np.float64)[:, :3]
    center = np.asarray(center_m, np.float64).reshape(-1, 1, 3)
    yaw = np.asarray(yaw_rad, np.float64).reshape(-1, 1)
    local = rotate_z(points[None] - center, -yaw)
    return (np.abs(local) <= np.asarray(size_m, np.float64).reshape(-1, 1, 3) / 2).all(-1)


def points_in_each_box(
    points_m: NDArray, center_m: NDArray, size_m: NDArray, yaw_rad: NDArray
) -> list[NDArray[np.int64]]:
    """For each of N boxes, the ascending indices (n_i,) int64 of the points inside, as ``points_in_boxes``.

    Only points near a box are tested exactly, so that memory does not grow with N times P.
    """
    x, y = (np.array(points_m[:, axis]) for axis in (0, 1))
    result = []
    for center, size, yaw in zip(np.asarray(center_m), np.asarray(size_m), np.asarray(yaw_rad), strict=True):
        radius = np.hypot(size[0], size[1]) / 2 * 1.001  # of the circle through the corners, with room for rounding
        near = np.flatnonzero(np.abs(x - center[0]) <= radius)
        near = near[np.abs(y[near] - center[1]) <= radius]
        result.append(near[points_in_boxes(points_m[near], center, size, yaw)[0]])
    return result


def in_range(points_m: NDArray, range_m: Sequence[float]) -> NDArray[np.bool_]:
    """Which of P points (P, 3+) [m] lie in a range, its faces included: (P,) bool.

    Args:
        range_m: x0, y0, z0, x1, y1, z1 [m], e.g. ``model.range_m``; compared in the dtype of ``points_m``.
    """
    low, high = np.asarray(range_m, points_m.dtype).reshape(2, 3)
    return ((points_m[:, :3] >= low) & (points_m[:, :3] <= high)).all(1)


def from_nuscenes(
    translation_m: NDArray, size_wlh_m: NDArray, rotation_wxyz: NDArray, src2dst: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Convert N nuScenes boxes and move them by ``src2dst`` (4, 4), e.g. global2lidar.

    The yaw is that of the heading projected on the destination's x-y plane (devkit: ``quaternion_yaw``).

    Args:
        translation_m: (N, 3) [m]. size_wlh_m: (N, 3) [m]. rotation_wxyz: (N, 4) quaternions. src2dst: rigid (4, 4).

    Returns:
        center_m (N, 3), size_m (N, 3) as l, w, h, yaw_rad (N,) in [-pi, pi); float64.
    """
    center = apply(src2dst, np.asarray(translation_m, np.float64).reshape(-1, 3))
    size = np.asarray(size_wlh_m, np.float64).reshape(-1, 3)[:, [1, 0, 2]]
    wxyz = np.asarray(rotation_wxyz, np.float64).reshape(-1, 4)
    if len(wxyz) == 0:
        return center, size, np.zeros(0)
    from scipy.spatial.transform import Rotation  # only where tables are read

    heading = Rotation.from_quat(wxyz[:, [1, 2, 3, 0]]).as_matrix()[:, :, 0] @ src2dst[:3, :3].T
    return center, size, wrap_angle(np.arctan2(heading[:, 1], heading[:, 0]))


def to_nuscenes(
    center_m: NDArray, size_m: NDArray, yaw_rad: NDArray, src2dst: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Convert N of our boxes to nuScenes' convention and move them by ``src2dst`` (4, 4), e.g. lidar2global.

    Args:
        center_m: (N, 3) [m]. size_m: (N, 3) l, w, h [m]. yaw_rad: (N,). src2dst: rigid (4, 4).

    Returns:
        translation_m (N, 3), size_wlh_m (N, 3), rotation_wxyz (N, 4) unit quaternions; float64.
    """
    translation = apply(src2dst, np.asarray(center_m, np.float64).reshape(-1, 3))
    size_wlh = np.asarray(size_m, np.float64).reshape(-1, 3)[:, [1, 0, 2]]
    motion = Quaternion(matrix=src2dst[:3, :3], rtol=1e-4, atol=1e-5)
    quaternions = [
        (motion * Quaternion(axis=(0, 0, 1), radians=float(yaw))).elements for yaw in np.asarray(yaw_rad).reshape(-1)
    ]
    return translation, size_wlh, np.array(quaternions, np.float64).reshape(-1, 4)


def footprints(center_m: NDArray, size_m: NDArray, yaw_rad: NDArray) -> NDArray[np.object_]:
    """The outlines of N boxes seen from above: (N,) shapely polygons in the x-y plane [m].

    Args:
        center_m: (N, 3) [m]. size_m: (N, 3) l, w, h [m]. yaw_rad: (N,).
    """
    import shapely  # imported here, because only overlaps of detections and pasted objects need it

    ground = corners(center_m, size_m, yaw_rad)[:, :4, :2]
    return np.asarray(shapely.polygons(ground), dtype=object).reshape(len(ground))


def bev_iou_aligned(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """The rotated BEV IoU of box i of ``a`` with box i of ``b``: (N,) float64; NaN where a box is not finite.

    Args:
        a, b: (N, 7) rows x, y, z, l, w, h [m], yaw [rad], in one frame.
    """
    import shapely

    a, b = (np.asarray(rows, np.float64).reshape(-1, 7) for rows in (a, b))
    iou, finite = np.full(len(a), np.nan), np.isfinite(a).all(1) & np.isfinite(b).all(1)
    one, other = (footprints(rows[:, :3], rows[:, 3:6], rows[:, 6]) for rows in (a[finite], b[finite]))
    shared = shapely.area(shapely.intersection(one, other))
    iou[finite] = shared / (shapely.area(one) + shapely.area(other) - shared)
    return iou


def bev_overlaps(a: NDArray, b: NDArray) -> NDArray[np.bool_]:
    """Which of N boxes overlap or touch which of M boxes, seen from above.

    Args:
        a: (N, 7) rows x, y, z, l, w, h [m], yaw [rad]. b: (M, 7), in the same frame.

    Returns:
        (N, M) bool.
    """
    import shapely

    a, b = (np.asarray(rows, np.float64).reshape(-1, 7) for rows in (a, b))
    one, other = (footprints(rows[:, :3], rows[:, 3:6], rows[:, 6]) for rows in (a, b))
    return np.asarray(shapely.intersects(one[:, None], other[None]), bool)
