"""Encodes boxes as the numbers that the center head regresses at a cell of the BEV grid, and decodes them.

The heading is coded in two parts. The axis, of period pi, is learned by an L1 loss as sine and cosine of twice the yaw.
The direction, i.e. which way along the axis the object heads, is learned as a binary choice. An L1 loss on sine and
cosine of the yaw itself learns neither: where the points leave two opposite headings open, that loss is flat between
them, so that the axis is lost together with the direction.

Legend: N cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

# offset: center (x, y) from the cell's low corner [cells]; height: z of the gravity center [m]; size: log (l, w, h)
# [m]; axis: (sin, cos) of twice the yaw; direction: a vector (x, y) whose dot product with a heading (cos, sin) is the
# log odds that the object heads this way rather than the opposite way; velocity: (vx, vy) [m/s].
CODE = {"offset": 2, "height": 1, "size": 3, "axis": 2, "direction": 2, "velocity": 2}
CODE_CHANNELS = sum(CODE.values())
LOG_SIZE_MAX = 4.0  # decoded sides are clamped to exp(-4) .. exp(4) meters


def part(code: Tensor, name: str) -> Tensor:
    """The channels of the part ``name`` (a key of CODE) of codes (..., 12)."""
    before = list(CODE).index(name)
    first = sum(list(CODE.values())[:before])
    return code[..., first : first + CODE[name]]


def encode(box: Tensor, velocity: Tensor, corner_m: Tensor, cell_m: float) -> Tensor:
    """Encode boxes at the cells that hold their centers; the direction part is the heading as a unit vector.

    Args:
        box: (N, 7) x, y, z, l, w, h [m], yaw [rad]. velocity: (N, 2) [m/s].
        corner_m: (N, 2) low corner (x, y) of each cell [m]. cell_m: side of a cell.

    Returns:
        Codes (N, 12).
    """
    yaw = box[:, 6:7]
    axis, heading = torch.cat([(2 * yaw).sin(), (2 * yaw).cos()], 1), torch.cat([yaw.cos(), yaw.sin()], 1)
    return torch.cat([(box[:, :2] - corner_m) / cell_m, box[:, 2:3], box[:, 3:6].log(), axis, heading, velocity], 1)


def decode(code: Tensor, corner_m: Tensor, cell_m: float) -> Tensor:
    """Boxes (N, 7) from codes (N, 12): the inverse of ``encode``, without the velocity; yaw in [-pi, pi]."""
    center = corner_m + part(code, "offset") * cell_m
    size = part(code, "size").clamp(-LOG_SIZE_MAX, LOG_SIZE_MAX).exp()
    return torch.cat([center, part(code, "height"), size, decode_yaw(code)[:, None]], 1)


def decode_yaw(code: Tensor) -> Tensor:
    """Yaw (N,) [rad] from codes (N, 12): the one of the axis's two headings that the direction prefers."""
    sin2, cos2 = part(code, "axis").unbind(1)
    angle = torch.atan2(sin2, cos2) / 2  # one of the axis's two headings, in [-pi/2, pi/2]
    ahead = (part(code, "direction") * torch.stack([angle.cos(), angle.sin()], 1)).sum(1) >= 0
    return torch.where(ahead, angle, torch.where(angle > 0, angle - torch.pi, angle + torch.pi))
