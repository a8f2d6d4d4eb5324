"""The axis along which LiDAR points round a click spread. Torch; any frame with z up.

Legend: P points, K clicks, N pairs of a click and a point near it.
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH_FACTOR, REACH_M = 0.6, 0.5  # a crop's radius: this share of the mean footprint's diagonal, and this much more
SIDE_FACTOR = 1.0  # of the diagonal of the class-mean box: what a picture of a click is wide and high
GROUND_M = 0.2  # the lowest part of an object is left out: what lies there is mostly ground
MIN_POINTS = 5  # fewer say nothing about an axis
DOUBTFUL_POINTS = 5.0  # an axis of so many points is believed half
PAIRS = 2**24  # of clicks and points looked at in one go: bounds memory to about 200 MB


@torch.no_grad()
def axes_from_points(points: Tensor, click: Tensor, size: Tensor) -> Tensor:
    """Heading axes (K, 2) of objects known by a click and their class's mean size: cos and sin of twice the angle.

    The principal axis, seen from above, of the points in a cylinder of half the mean footprint's diagonal, from
    GROUND_M above the mean box's underside to its top; for classes wider than long (barrier) the direction across it.
    The vector's length, in [0, 1), says how sure: (a - b) / (a + b) of the larger and the smaller variance, times
    n / (n + 5) of n points; 0 for fewer than MIN_POINTS.

    Args:
        points: (P, 3+) [m]. click: (K, 3) [m]. size: (K, 3) mean l, w, h [m] of the click's class.
    """
    chunk = max(1, PAIRS // max(1, len(points)))
    parts = [_axes(points, *part) for part in zip(click.split(chunk), size.split(chunk), strict=True)]
    return torch.cat(parts) if parts else click.new_zeros(0, 2)


def _axes(points: Tensor, click: Tensor, size: Tensor) -> Tensor:
    offset = points[None, :, :3].float() - click[:, None]
    owner, point = _upright(offset, size[:, None]).nonzero(as_tuple=True)
    return _axes_of(offset[owner, point], owner, size)


@torch.no_grad()
def axes_of_pairs(offset: Tensor, owner: Tensor, size: Tensor) -> Tensor:
    """``axes_from_points`` where it is known which points are near which clicks.

    Args:
        offset: (N, 3) from the click to the point [m]; pairs beyond the cylinder do not count. owner: (N,) the pair's
            click, 0 .. K-1. size: (K, 3) mean l, w, h [m] of the click's class.
    """
    keep = _upright(offset, size[owner])
    return _axes_of(offset[keep], owner[keep], size)


def _upright(offset: Tensor, size: Tensor) -> Tensor:
    """(..., 3) offsets -> (...) bool: within the cylinder of ``axes_from_points``."""
    radius, half = size[..., :2].norm(dim=-1) / 2, size[..., 2] / 2
    x, y, z = offset.unbind(-1)
    return (x.square() + y.square() <= radius.square()) & (z >= GROUND_M - half) & (z <= half)


def _axes_of(offset: Tensor, owner: Tensor, size: Tensor) -> Tensor:
    """Axes (K, 2) from the offsets (N, 3) of points and their clicks (N,)."""
    x, y = offset[:, 0], offset[:, 1]
    each = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    n, x, y, xx, xy, yy = each.new_zeros(len(size), 6).index_add_(0, owner, each).unbind(1)
    some = n.clamp(min=1)
    xx, xy, yy = xx - x * x / some, xy - x * y / some, yy - y * y / some
    spread = (xx + yy).clamp(min=1e-9)
    sure = torch.where(n >= MIN_POINTS, n / (n + DOUBTFUL_POINTS), 0.0)
    sure = torch.where(size[:, 1] > size[:, 0], -sure, sure)  # a quarter turn is half a turn of twice the angle
    return sure[:, None] * torch.stack([(xx - yy) / spread, 2 * xy / spread], 1)
