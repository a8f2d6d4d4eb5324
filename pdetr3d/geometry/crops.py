"""The axis along which LiDAR points round a click spread. Torch; any frame with z up.

Legend: P points, K clicks, N pairs of a click and a point near it.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    n, x, y, xx, xy, yy = _moments(points, click, size).unbind(1)
    some = n.clamp(min=1)
    xx, xy, yy = xx - x * x / some, xy - x * y / some, yy - y * y / some
    spread = (xx + yy).clamp(min=1e-9)
    sure = torch.where(n >= MIN_POINTS, n / (n + DOUBTFUL_POINTS), 0.0)
    sure = torch.where(size[:, 1] > size[:, 0], -sure, sure)  # a quarter turn is half a turn of twice the angle
    return sure[:, None] * torch.stack([(xx - yy) / spread, 2 * xy / spread], 1)


def _moments(points: Tensor, click: Tensor, size: Tensor) -> Tensor:
    """(K, 6): the number of points round each click and the sums of their x, y, xx, xy, yy, relative to it [m]."""
    radius, half = size[:, :2].norm(dim=1, keepdim=True) / 2, size[:, 2:] / 2
    x, y, z = (points[:, i].float() - click[:, i, None] for i in range(3))
    near = (x.square() + y.square() <= radius.square()) & (z >= GROUND_M - half) & (z <= half)
    owner, point = near.nonzero(as_tuple=True)
    x, y = x[owner, point], y[owner, point]
    each = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    return each.new_zeros(len(click), 6).index_add_(0, owner, each)
