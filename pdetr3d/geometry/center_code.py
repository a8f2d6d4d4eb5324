"""The center head's box code: what is regressed at a cell of the BEV grid, and the box that it stands for.

The heading is coded in two parts. The axis, of period pi, is learned by L1 as sine and cosine of twice the yaw. Which
way along it the object heads, the direction, is a choice between two and is learned as one. L1 on sine and cosine of
the yaw itself does neither: between two opposite headings, which points alone often leave open, it is flat, and the
axis gets lost with the direction.

Legend: N cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

# offset: center (x, y) from the cell's low corner [cells]; height: z of the gravity center [m]; size: log (l, w, h)
# [m]; axis: (sin, cos) of twice the yaw; direction: logit (x, y) whose product with a heading (cos, sin) are the log
# odds that the object heads this way rather than the opposite one; velocity: (vx, vy) [m/s].
CODE = {"offset": 2, "height": 1, "size": 3, "axis": 2, "direction": 2, "velocity": 2}
CODE_CHANNELS = sum(CODE.values())
LOG_SIZE_MAX = 4.0  # a side is between exp(-4) and exp(4) meters


def part(code: Tensor, name: str) -> Tensor:
    """The channels ``name`` of codes (..., 12)."""
    before = list(CODE).index(name)
    first = sum(list(CODE.values())[:before])
    return code[..., first : first + CODE[name]]


def encode(box: Tensor, velocity: Tensor, corner_m: Tensor, cell_m: float) -> Tensor:
    """Codes (N, 12) of boxes (N, 7) x, y, z, l, w, h, yaw and velocities (N, 2), seen from cells whose low corners
    (x, y) are ``corner_m`` (N, 2) [m]; the direction is the heading, a vector of length one."""
    yaw = box[:, 6:7]
    axis, heading = torch.cat([(2 * yaw).sin(), (2 * yaw).cos()], 1), torch.cat([yaw.cos(), yaw.sin()], 1)
    return torch.cat([(box[:, :2] - corner_m) / cell_m, box[:, 2:3], box[:, 3:6].log(), axis, heading, velocity], 1)


def decode(code: Tensor, corner_m: Tensor, cell_m: float) -> Tensor:
    """Boxes (N, 7) of codes (N, 12): the inverse of ``encode``; yaw in [-pi, pi]."""
    center = corner_m + part(code, "offset") * cell_m
    size = part(code, "size").clamp(-LOG_SIZE_MAX, LOG_SIZE_MAX).exp()
    return torch.cat([center, part(code, "height"), size, decode_yaw(code)[:, None]], 1)


def decode_yaw(code: Tensor) -> Tensor:
    """Yaw (N,) [rad] of codes (N, 12): along the axis, the way that the direction prefers."""
    sin2, cos2 = part(code, "axis").unbind(1)
    angle = torch.atan2(sin2, cos2) / 2  # one of the axis' two headings, in [-pi/2, pi/2]
    ahead = (part(code, "direction") * torch.stack([angle.cos(), angle.sin()], 1)).sum(1) >= 0
    return torch.where(ahead, angle, torch.where(angle > 0, angle - torch.pi, angle + torch.pi))
