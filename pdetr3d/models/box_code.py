"""The box code: encodes a click's box as numbers that a network can learn, and decodes them.

A code is relative to an anchor (the click), to the class's mean size and to a *frame*, whose x axis points in a given
direction. The first stage's frame is the viewing ray: objects that look the same to a sensor have the same code at
every place (KITTI's observation angle). A later stage's frame is the heading that the stage before found: there the
object's length is along x for every heading, so that a linear layer can predict it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BOX_CODE = 10  # dx, dy, dz, dl, dw, dh, sin and cos of yaw, sin and cos of 2 yaw
FLAT_CODE = 6  # the numbers of the code that rotate with the frame: dx, dy, and the four of yaw
# Units of the code's center and size, as in Fast R-CNN: one optimizer step must change an output by little compared
# with its range. Without them, sizes and centers jitter until the learning rate falls.
CENTER_STD, SIZE_STD = 0.1, 0.2
# A heading of which nothing is known starts forward (+y of the LiDAR frame), as most traffic drives. Its vector has
# this length: the network corrects a short vector sooner than one of unit length.
GUESS = 0.1


def decode_click_box(code: Tensor, anchor: Tensor, prior_size: Tensor, frame: Tensor) -> Tensor:
    """Code (..., 10) -> box (..., 7).

    In the frame: center = anchor + CENTER_STD (dx d, dy d, dz h) with d the diagonal of the mean footprint;
    size = mean * exp(SIZE_STD (dl, dw, dh)); heading = yaw.
    The box's axis comes from 2 yaw, and its direction along the axis from yaw. If front and rear look alike, the mean
    of two opposite headings is useless, while their common axis is still known.
    The height is relative to the click, too; the released code predicts absolute z without this prior (method.md 2.7).

    Args:
        code: (..., 10). anchor: (..., 3) [m]. prior_size: (..., 3) mean l, w, h [m] of the class.
        frame: (..., 2) cos and sin of the direction of the frame's x axis, in the LiDAR frame.
    """
    center = anchor + turn(CENTER_STD * code[..., :3] * center_unit(prior_size), frame)
    size = prior_size * (SIZE_STD * code[..., 3:6]).clamp(-2, 2).exp()
    axis, odds = axis_and_odds(code)
    heading = turn(torch.where(odds[..., None] >= 0, axis, -axis), frame)
    return torch.cat([center, size, torch.atan2(heading[..., 1:], heading[..., :1])], -1)


def axis_and_odds(code: Tensor) -> tuple[Tensor, Tensor]:
    """The axis (..., 2), cos and sin in the code's frame, and the log odds (...) that the heading is along it."""
    axis = torch.atan2(code[..., 8:9], code[..., 9:10]) / 2
    axis = torch.cat([axis.cos(), axis.sin()], -1)
    return axis, (axis * code[..., [7, 6]]).sum(-1)


def encode_click_box(box: Tensor, anchor: Tensor, prior_size: Tensor, frame: Tensor) -> Tensor:
    """Box (..., 7) -> code (..., 10): the inverse of ``decode_click_box``, with sin and cos of unit length."""
    back = backwards(frame)
    center = turn(box[..., :3] - anchor, back) / (CENTER_STD * center_unit(prior_size))
    heading = turn(direction_of(box[..., 6]), back)
    double = turn(heading, heading)
    size = (box[..., 3:6] / prior_size).log() / SIZE_STD
    return torch.cat([center, size, heading[..., [1, 0]], double[..., [1, 0]]], -1)


def join_frames(raw: Tensor, frame: Tensor) -> Tensor:
    """Add two predictions (..., 16) to one code (..., 10) in the frame.

    The first 10 numbers are a code in the frame. The last 6 are the flat part of a code in the LiDAR frame; they are
    rotated into the frame. A camera shows a box relative to the viewing ray, a BEV map relative to x and y. So each can
    be predicted linearly; with one frame for both, the network would have to multiply features by the frame's
    direction.
    """
    code, dx, dy, sin, cos, sin2, cos2 = raw[..., :BOX_CODE], *raw[..., BOX_CODE:].unbind(-1)
    back = backwards(frame)
    shift, heading = (turn(torch.stack(pair, -1), back) for pair in ((dx, dy), (cos, sin)))
    axis = turn(turn(torch.stack([cos2, sin2], -1), back), back)
    flat = torch.cat([shift, torch.zeros_like(code[..., :4]), heading.flip(-1), axis.flip(-1)], -1)
    return code + flat


def viewing_direction(click: Tensor) -> Tensor:
    """(..., 3) -> (..., 2): cos and sin of the azimuth of the ray from the sensor to the click."""
    x, y, _ = click.detach().unbind(-1)  # the frame needs no gradient, which would explode near the sensor
    return direction_of(torch.atan2(y, x))  # atan2 is defined at the sensor itself, too


def direction_of(angle: Tensor) -> Tensor:
    """(...) [rad] -> (..., 2): cos and sin."""
    return torch.stack([angle.cos(), angle.sin()], -1)


def backwards(direction: Tensor) -> Tensor:
    """(..., 2) cos and sin of an angle -> cos and sin of the negative angle."""
    return direction * direction.new_tensor([1.0, -1.0])


def turn(vector: Tensor, direction: Tensor) -> Tensor:
    """Rotate x, y of (..., 2 or 3) about z by the angle whose cos and sin are (..., 2)."""
    x, y, cos, sin = *vector[..., :2].unbind(-1), *direction.unbind(-1)
    return torch.cat([torch.stack([x * cos - y * sin, x * sin + y * cos], -1), vector[..., 2:]], -1)


def center_unit(prior_size: Tensor) -> Tensor:
    """(..., 3) mean l, w, h -> units of the center offset [m]: (d, d, h), where d is the footprint's diagonal."""
    diagonal = prior_size[..., :2].norm(dim=-1, keepdim=True)
    return torch.cat([diagonal, diagonal, prior_size[..., 2:3]], -1)


def start_code(axis: Tensor) -> Tensor:
    """The start of the first stage's code, (..., 16) for ``join_frames``; the box head's output is added to it.

    It is the class-mean box at the click, along the axis of the points, or forward (+y) where the axis is unsure.
    Headings are hard to learn from few box-labeled samples; an axis computed from the points is also right in scenes
    that differ from the training's. The vector of an unsure axis is shorter, so that the network corrects it sooner.

    Args:
        axis: (..., 2) of ``start_axes``.
    """
    axis = axis + (1 - axis.norm(dim=-1, keepdim=True)) * axis.new_tensor([-GUESS, 0.0])
    yaw = axis.new_tensor([GUESS, 0.0]).expand_as(axis)
    return torch.cat([axis.new_zeros(*axis.shape[:-1], BOX_CODE + 2), yaw, axis.flip(-1)], -1)


def along_code(frame: Tensor) -> Tensor:
    """Frames (..., 2) -> the code (..., 10) of the class-mean box at the anchor that heads along the frame."""
    ahead = frame.new_tensor([0.0] * 7 + [1.0, 0.0, 1.0])
    return ahead.expand(*frame.shape[:-1], BOX_CODE)


def start_at_zero(layer: nn.Linear) -> None:
    """Set the last layer of a box head to zero, so that training begins at the code's start."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
