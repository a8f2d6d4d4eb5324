"""Projects points into images by one pinhole matrix: ``lidar2img @ (x, y, z, 1) = (u d, v d, d, 1)``.

Image coordinates are continuous with pixel corners at integers: resizing by s scales u and v by s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdetr3d.geometry.rigid import chain

MIN_DEPTH_M = 0.1  # points nearer to the camera's plane have no meaningful pixel


def compose_lidar2img(lidar2cam: NDArray[np.float64], intrinsic: ArrayLike) -> NDArray[np.float64]:
    """Join the rigid ``lidar2cam`` (4, 4) and the 3x3 ``intrinsic`` [px] into ``lidar2img`` (4, 4) float64.

    Raises:
        ValueError: when the intrinsic is not a finite 3x3 matrix with focal lengths > 0 and a last row (0, 0, 1).
    """
    matrix = np.asarray(intrinsic, dtype=np.float64)
    if (
        matrix.shape != (3, 3)
        or not np.isfinite(matrix).all()
        or min(matrix[0, 0], matrix[1, 1]) <= 0
        or not np.allclose(matrix[2], (0, 0, 1))
    ):
        raise ValueError(
            "camera_intrinsic must be a finite 3x3 matrix, row by row, with focal lengths > 0 and a last row "
            f"(0, 0, 1), got {np.asarray(intrinsic).tolist()}"
        )
    cam2img = np.eye(4)
    cam2img[:3, :3] = matrix
    return chain(lidar2cam, cam2img)


def resize_lidar2img(lidar2img: NDArray[np.float64], scale_u: float, scale_v: float) -> NDArray[np.float64]:
    """``lidar2img`` (4, 4) of the image after its width was multiplied by ``scale_u`` and its height by ``scale_v``."""
    return chain(lidar2img, np.diag([scale_u, scale_v, 1.0, 1.0]))


def project(lidar2img: NDArray[np.float64], points_m: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project points.

    Args:
        lidar2img: (4, 4). points_m: (..., 3) in the frame that ``lidar2img`` maps from [m].

    Returns:
        uv_px (..., 2), NaN where the depth is below MIN_DEPTH_M, and depth_m (...,); float64.
    """
    points = np.asarray(points_m, np.float64)
    image = points @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    depth = image[..., 2]
    safe = np.where(depth >= MIN_DEPTH_M, depth, np.nan)
    return image[..., :2] / safe[..., None], depth


def in_image(uv_px: NDArray, size_px: Sequence[int]) -> NDArray[np.bool_]:
    """Which pixels (..., 2) lie inside an image of ``size_px`` = (width, height); NaN lies outside."""
    with np.errstate(invalid="ignore"):
        return ((uv_px >= 0) & (uv_px < np.asarray(size_px))).all(-1)


def project_segments(lidar2img: NDArray[np.float64], segments_m: NDArray) -> NDArray[np.float64]:
    """Project line segments, cut at depth MIN_DEPTH_M; segments that are wholly nearer are dropped.

    Args:
        lidar2img: (4, 4). segments_m: (S, 2, 3) end points [m].

    Returns:
        (T, 2, 2) float64 [px] with T <= S, in the order given.
    """
    segments = np.asarray(segments_m, np.float64).reshape(-1, 2, 3)
    # (u d, v d, d) is linear along a segment, so that the segment can be cut in these coordinates.
    image = segments @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    image = image[(image[..., 2] > MIN_DEPTH_M).any(1)]
    depth = image[..., 2]
    for end in (0, 1):
        cut = depth[:, end] < MIN_DEPTH_M
        share = (MIN_DEPTH_M - depth[cut, end]) / (depth[cut, 1 - end] - depth[cut, end])
        image[cut, end] += share[:, None] * (image[cut, 1 - end] - image[cut, end])
    return image[..., :2] / image[..., 2:]
