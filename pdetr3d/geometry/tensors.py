"""Boxes and cameras as tensors, on any device: what ``boxes.corners`` and ``camera.project`` are for arrays.

Legend: B samples, V views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pdetr3d.geometry.boxes import UNIT_CORNERS
from pdetr3d.geometry.camera import MIN_DEPTH_M


def box_corners(box: Tensor) -> Tensor:
    """(..., 7) boxes x, y, z, l, w, h [m], yaw [rad] -> (..., 8, 3) corners [m], in the order of UNIT_CORNERS."""
    local = torch.tensor(UNIT_CORNERS / 2, device=box.device, dtype=box.dtype) * box[..., None, 3:6]
    cos, sin = box[..., 6].cos()[..., None], box[..., 6].sin()[..., None]
    x, y = local[..., 0] * cos - local[..., 1] * sin, local[..., 0] * sin + local[..., 1] * cos
    return torch.stack([x, y, local[..., 2]], -1) + box[..., None, :3]


def homogeneous(lidar2img: Tensor, points: Tensor) -> Tensor:
    """Matrices (..., 4, 4) times points (..., 3) [m], which broadcast: (..., 3) u d, v d, d.

    This is no matrix product, because autocast would round the coordinates to bfloat16: up to 0.12 m at 50 m.
    """
    x, y, z = points[..., None].unbind(-2)
    rows = lidar2img[..., :3, :]
    return x * rows[..., 0] + y * rows[..., 1] + z * rows[..., 2] + rows[..., 3]


def pixel_of(image: Tensor) -> Tensor:
    """(..., 3) u d, v d, d -> (..., 2) u, v [px].

    The divisor is at least MIN_DEPTH_M, so that pixels are finite; the caller must mask points by depth.
    """
    return image[..., :2] / image[..., 2:].clamp(min=MIN_DEPTH_M)


def project(lidar2img: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Project (B, ..., 3) points into all views of (B, V, 4, 4): ``pixel_of`` (B, V, ..., 2), depth (B, V, ...) [m]."""
    b, v = lidar2img.shape[:2]
    image = homogeneous(lidar2img[:, :, None], points.reshape(b, 1, -1, 3))
    shape = points.shape[1:-1]
    return pixel_of(image).view(b, v, *shape, 2), image[..., 2].view(b, v, *shape)


def inside(place: Tensor, size: Tensor | float) -> Tensor:
    """(..., 2) -> (...) bool: whether x and y are at least 0 and below ``size``."""
    return ((place >= 0) & (place < size)).all(-1)
