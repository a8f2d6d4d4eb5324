"""Estimates an object's heading axis from the LiDAR points around its click, and sets the sizes of crops (torch).

Points and clicks may be in any frame with z up.

Legend: P points, K clicks, N pairs of a click and a point near it.
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH_FACTOR, REACH_M = 0.6, 0.5  # radius of a point crop: factor times the class-mean diagonal, plus meters
SIDE_FACTOR = 1.0  # side of a picture crop: factor times the class-mean box's space diagonal
GROUND_M = 0.2  # points in the lowest part of an object are left out, because most of them are ground
MIN_POINTS = 5  # with fewer points no axis is estimated
DOUBTFUL_POINTS = 5.0  # number of points at which the confidence in an axis is halved
PAIRS = 2**24  # pairs of a click and a point per chunk, which bounds memory to about 200 MB


@torch.no_grad()
def axes_from_points(points: Tensor, click: Tensor, size: Tensor) -> Tensor:
    """Estimate the heading axes of objects from a click and the class's mean size.

    The axis is the principal axis, seen from above, of the points in an upright cylinder around the click. Its radius
    is half the diagonal of the mean footprint; it reaches from GROUND_M above the mean box's underside to its top. For
    classes that are wider than long (barriers) the axis is perpendicular to the principal axis.

    Args:
        points: (P, 3+) [m]. click: (K, 3) [m]. size: (K, 3) mean l, w, h [m] of the click's class.

    Returns:
        (K, 2) float32: cos and sin of twice the axis's angle, times a confidence in [0, 1). The confidence of an axis
        of n points with variances a >= b is (a - b) / (a + b) * n / (n + 5); 0 for fewer than MIN_POINTS points.
    """
    chunk = max(1, PAIRS // max(1, len(points)))
    parts = [_axes(points, *part) for part in zip(click.split(chunk), size.split(chunk), strict=True)]
    return torch.cat(parts) if parts else click.new_zeros(0, 2)


def _axes(points: Tensor, click: Tensor, size: Tensor) -> Tensor:
    offset = points[None, :, :3].float() - click[:, None]
    owner, point = _in_cylinder(offset, size[:, None]).nonzero(as_tuple=True)
    return _axes_of(offset[owner, point], owner, size)


@torch.no_grad()
def axes_of_pairs(offset: Tensor, owner: Tensor, size: Tensor) -> Tensor:
    """``axes_from_points`` for given pairs of a click and a point near it.

    Args:
        offset: (N, 3) from the click to the point [m]; pairs outside the cylinder are ignored.
        owner: (N,) the pair's click, 0 .. K-1.
        size: (K, 3) mean l, w, h [m] of the click's class.

    Returns:
        (K, 2), as ``axes_from_points``.
    """
    keep = _in_cylinder(offset, size[owner])
    return _axes_of(offset[keep], owner[keep], size)


def _in_cylinder(offset: Tensor, size: Tensor) -> Tensor:
    """(..., 3) offsets -> (...) bool: within the cylinder of ``axes_from_points``."""
    radius, half = size[..., :2].norm(dim=-1) / 2, size[..., 2] / 2
    x, y, z = offset.unbind(-1)
    return (x.square() + y.square() <= radius.square()) & (z >= GROUND_M - half) & (z <= half)


def _axes_of(offset: Tensor, owner: Tensor, size: Tensor) -> Tensor:
    """Axes (K, 2) from the offsets (N, 3) of the points in the cylinders, and the points' clicks (N,)."""
    x, y = offset[:, 0], offset[:, 1]
    each = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    n, x, y, xx, xy, yy = each.new_zeros(len(size), 6).index_add_(0, owner, each).unbind(1)
    some = n.clamp(min=1)
    xx, xy, yy = xx - x * x / some, xy - x * y / some, yy - y * y / some
    spread = (xx + yy).clamp(min=1e-9)
    sure = torch.where(n >= MIN_POINTS, n / (n + DOUBTFUL_POINTS), 0.0)
    sure = torch.where(size[:, 1] > size[:, 0], -sure, sure)  # turning the axis by pi/2 turns twice its angle by pi
    return sure[:, None] * torch.stack([(xx - yy) / spread, 2 * xy / spread], 1)
