"""A click's box as numbers that a network can learn, and back.

A code is relative to an anchor (the click), to the class's mean size and to a *frame*, whose x axis points in a given
direction. The first stage's frame is the viewing ray: what looks the same to a sensor has the same code wherever it
stands (KITTI's observation angle). A later stage's frame is the heading that the stage before found: there a length is
a length at every angle, which no linear readout of a view can say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BOX_CODE = 10  # dx, dy, dz, dl, dw, dh, sin and cos of yaw, sin and cos of 2 yaw
FLAT_CODE = 6  # of them, those that turn with the frame: dx, dy, and the four of yaw
# Units of the code's center and size: what one step of the optimizer changes in an output must be small beside what
# the output has to say. Fast R-CNN's; without them sizes and centers jitter until the learning rate falls.
CENTER_STD, SIZE_STD = 0.1, 0.2
# The length of what a heading starts with where nothing shows it: forward (+y of the LiDAR frame), as most traffic
# drives. So short a vector is sooner unlearned than one of unit length.
GUESS = 0.1


def decode_click_box(code: Tensor, anchor: Tensor, prior_size: Tensor, frame: Tensor) -> Tensor:
    """Code (..., 10) -> box (..., 7).

    In the frame: center = anchor + CENTER_STD (dx d, dy d, dz h) with d the diagonal of the mean footprint;
    size = mean * exp(SIZE_STD (dl, dw, dh)); heading = yaw.
    The box's axis is that of 2 yaw, its direction along the axis that of yaw: where front and rear look alike, the mean
    of two opposite headings says nothing, that of their common axis everything.
    The height is relative to the click too: the released code's absolute z wastes that prior (method.md 2.7).

    Args:
        code: (..., 10). anchor: (..., 3) [m]. prior_size: (..., 3) mean l, w, h [m] of the class.
        frame: (..., 2) cos and sin of the direction of the frame's x axis, in the LiDAR frame.
    """
    center = anchor + turn(CENTER_STD * code[..., :3] * center_unit(prior_size), frame)
    size = prior_size * (SIZE_STD * code[..., 3:6]).clamp(-2, 2).exp()
    axis = torch.atan2(code[..., 8:9], code[..., 9:10]) / 2
    axis = torch.cat([axis.cos(), axis.sin()], -1)
    forward = (axis * code[..., [7, 6]]).sum(-1, keepdim=True) >= 0
    heading = turn(torch.where(forward, axis, -axis), frame)
    return torch.cat([center, size, torch.atan2(heading[..., 1:], heading[..., :1])], -1)


def encode_click_box(box: Tensor, anchor: Tensor, prior_size: Tensor, frame: Tensor) -> Tensor:
    """Inverse of ``decode_click_box`` (sin and cos of unit length)."""
    back = backwards(frame)
    center = turn(box[..., :3] - anchor, back) / (CENTER_STD * center_unit(prior_size))
    heading = turn(direction_of(box[..., 6]), back)
    double = turn(heading, heading)
    size = (box[..., 3:6] / prior_size).log() / SIZE_STD
    return torch.cat([center, size, heading[..., [1, 0]], double[..., [1, 0]]], -1)


def join_frames(raw: Tensor, frame: Tensor) -> Tensor:
    """(..., 16) -> code (..., 10): a code in the frame plus, turned into it, its flat part in the LiDAR frame.

    A camera shows how a box stands to the viewing ray, the BEV map how it stands to x and y. Each is a plain readout of
    what a query sees; one frame for both would make the network multiply its readings with the frame's direction.
    """
    code, dx, dy, sin, cos, sin2, cos2 = raw[..., :BOX_CODE], *raw[..., BOX_CODE:].unbind(-1)
    back = backwards(frame)
    shift, heading = (turn(torch.stack(pair, -1), back) for pair in ((dx, dy), (cos, sin)))
    axis = turn(turn(torch.stack([cos2, sin2], -1), back), back)
    flat = torch.cat([shift, torch.zeros_like(code[..., :4]), heading.flip(-1), axis.flip(-1)], -1)
    return code + flat


def viewing_direction(click: Tensor) -> Tensor:
    """(..., 3) -> (..., 2): cos and sin of the azimuth of the ray from the sensor to the click."""
    x, y, _ = click.detach().unbind(-1)  # a frame, not a prediction: near the sensor its gradient would explode
    return direction_of(torch.atan2(y, x))  # defined at the sensor itself, too


def direction_of(angle: Tensor) -> Tensor:
    """(...) [rad] -> (..., 2): cos and sin."""
    return torch.stack([angle.cos(), angle.sin()], -1)


def backwards(direction: Tensor) -> Tensor:
    """(..., 2) cos and sin of an angle -> those of the angle turned back."""
    return direction * direction.new_tensor([1.0, -1.0])


def turn(vector: Tensor, direction: Tensor) -> Tensor:
    """Rotate x, y of (..., 2 or 3) about z by the angle whose cos and sin are (..., 2)."""
    x, y, cos, sin = *vector[..., :2].unbind(-1), *direction.unbind(-1)
    return torch.cat([torch.stack([x * cos - y * sin, x * sin + y * cos], -1), vector[..., 2:]], -1)


def center_unit(prior_size: Tensor) -> Tensor:
    """(..., 3) mean l, w, h -> unit of the center offset [m]: (d, d, h), d the footprint's diagonal."""
    diagonal = prior_size[..., :2].norm(dim=-1, keepdim=True)
    return torch.cat([diagonal, diagonal, prior_size[..., 2:3]], -1)


def start_code(axis: Tensor) -> Tensor:
    """Axes (..., 2), see ``Queries`` -> (..., 16) for ``join_frames``: the class-mean box at the click, along the axis
    as far as this is sure, else forward (+y). What a box head says is added to this.

    Headings are what few box-labeled samples teach worst: a start from the points themselves holds in scenes that the
    network has not seen. Less than sure axes have shorter vectors, which the network overrules sooner.
    """
    axis = axis + (1 - axis.norm(dim=-1, keepdim=True)) * axis.new_tensor([-GUESS, 0.0])
    yaw = axis.new_tensor([GUESS, 0.0]).expand_as(axis)
    return torch.cat([axis.new_zeros(*axis.shape[:-1], BOX_CODE + 2), yaw, axis.flip(-1)], -1)


def along_code(frame: Tensor) -> Tensor:
    """Frames (..., 2) -> code (..., 10) of the class-mean box at the anchor, heading along the frame."""
    ahead = frame.new_tensor([0.0] * 7 + [1.0, 0.0, 1.0])
    return ahead.expand(*frame.shape[:-1], BOX_CODE)


def start_at_zero(layer: nn.Linear) -> None:
    """Make the last layer of a box head add nothing to its start, whatever goes in."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
