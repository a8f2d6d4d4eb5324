"""The teacher's decoder: RoI fusion, feed-forward, box and quality heads, box refinement between layers.

Legend: B samples, Q queries, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdetr3d.config import TeacherConfig
from pdetr3d.models.fusion import Fusion
from pdetr3d.models.point_query import Queries
from pdetr3d.models.roi_fusion import Views

BOX_CODE = 10  # dx, dy, dz, dl, dw, dh, sin and cos of yaw, sin and cos of 2 yaw
FLAT_CODE = 6  # of them, those that turn with the frame: dx, dy, and the four of yaw
# Units of the code's center and size: what one step of the optimizer changes in an output must be small beside what
# the output has to say. Fast R-CNN's; without them sizes and centers jitter until the learning rate falls.
CENTER_STD, SIZE_STD = 0.1, 0.2
# The length of what a heading starts with where nothing shows it: forward (+y of the LiDAR frame), as most traffic
# drives. So short a vector is sooner unlearned than one of unit length.
GUESS = 0.1

CLASS_BIAS = -math.log((1 - 0.01) / 0.01)  # every class starts at a probability of 0.01 (method.md 2.7)


def decode_click_box(code: Tensor, click: Tensor, prior_size: Tensor) -> Tensor:
    """Code (..., 10) -> box (..., 7), relative to the click (..., 3) and the class's mean size (..., 3).

    In a frame at the click whose x points away from the sensor:
    center = CENTER_STD (dx d, dy d, dz h) with d the diagonal of the mean footprint;
    size = mean * exp(SIZE_STD (dl, dw, dh)); heading = yaw.
    The box's axis is that of 2 yaw, its direction along the axis that of yaw: where front and rear look alike, the mean
    of two opposite headings says nothing, that of their common axis everything.
    What looks the same, to the LiDAR or in the image of whichever camera, so has the same code wherever it stands
    (KITTI's observation angle). The height is relative to the click too: the released code's absolute z wastes that
    prior (method.md 2.7).
    """
    ray = viewing_direction(click)
    center = click + turn(CENTER_STD * code[..., :3] * center_unit(prior_size), ray)
    size = prior_size * (SIZE_STD * code[..., 3:6]).clamp(-2, 2).exp()
    axis = torch.atan2(code[..., 8:9], code[..., 9:10]) / 2
    axis = torch.cat([axis.cos(), axis.sin()], -1)
    forward = (axis * code[..., [7, 6]]).sum(-1, keepdim=True) >= 0
    heading = turn(torch.where(forward, axis, -axis), ray)
    return torch.cat([center, size, torch.atan2(heading[..., 1:], heading[..., :1])], -1)


def encode_click_box(box: Tensor, click: Tensor, prior_size: Tensor) -> Tensor:
    """Inverse of ``decode_click_box`` (sin and cos of unit length)."""
    back = viewing_direction(click) * click.new_tensor([1.0, -1.0])
    center = turn(box[..., :3] - click, back) / (CENTER_STD * center_unit(prior_size))
    heading = turn(torch.cat([box[..., 6:7].cos(), box[..., 6:7].sin()], -1), back)
    double = turn(heading, heading)
    size = (box[..., 3:6] / prior_size).log() / SIZE_STD
    return torch.cat([center, size, heading[..., [1, 0]], double[..., [1, 0]]], -1)


def join_frames(raw: Tensor, click: Tensor) -> Tensor:
    """(..., 16) -> code (..., 10): a code in the viewing frame plus, turned into it, its flat part in the LiDAR frame.

    A camera shows how a box stands to the viewing ray, the BEV map how it stands to x and y. Each is a plain readout of
    what a query sees; one frame for both would make the network multiply its readings with the ray's direction.
    """
    code, dx, dy, sin, cos, sin2, cos2 = raw[..., :BOX_CODE], *raw[..., BOX_CODE:].unbind(-1)
    back = viewing_direction(click) * click.new_tensor([1.0, -1.0])
    shift, heading = (turn(torch.stack(pair, -1), back) for pair in ((dx, dy), (cos, sin)))
    axis = turn(turn(torch.stack([cos2, sin2], -1), back), back)
    flat = torch.cat([shift, torch.zeros_like(code[..., :4]), heading.flip(-1), axis.flip(-1)], -1)
    return code + flat


def viewing_direction(click: Tensor) -> Tensor:
    """(..., 3) -> (..., 2): cos and sin of the azimuth of the ray from the sensor to the click."""
    x, y, _ = click.detach().unbind(-1)  # a frame, not a prediction: near the sensor its gradient would explode
    azimuth = torch.atan2(y, x)  # defined at the sensor itself, too
    return torch.stack([azimuth.cos(), azimuth.sin()], -1)


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


def start_at_zero(layer: nn.Linear) -> None:
    """Make the last layer of a box head add nothing to ``start_code``, whatever goes in."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class DecoderLayer(nn.Module):
    """query + fusion -> LayerNorm -> feed-forward -> LayerNorm; queries never see one another (method.md 2.6)."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        c = config.channels
        self.fusion = Fusion(config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.feed_forward = nn.Sequential(
            nn.Linear(c, 2 * c), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(2 * c, c)
        )

    def forward(self, query: Tensor, fused: Tensor) -> Tensor:
        query = self.norm1(query + self.dropout(fused))
        return self.norm2(query + self.dropout(self.feed_forward(query)))


@dataclass(frozen=True)
class Decoded:
    """What one decoder layer says: the first five attributes of ``TeacherOutput``; logit None where there is none."""

    box: Tensor
    code: Tensor
    quality: Tensor
    anchor: Tensor
    logit: Tensor | None


class Decoder(nn.Module):
    """``teacher.decoder_layers`` layers; each predicts a box per query, which is the next layer's RoI (detached).

    A layer's box code is relative to its anchor. A query that starts at its click stays anchored there. Where
    ``Queries.refined`` is set, only the first layer's anchor is ``Queries.anchor``; those of later layers are the RoI's
    center, the refined reference, as in Point-DETR's 3D form (method.md 8: "only the first layer's box residual uses
    the true point"). So of ``query_init=implicit`` the boxes that answer, the last layer's, are relative to the click
    only with ``teacher.decoder_layers=1``. RoIs are detached, as in Deformable DETR: a reference learns from what is
    sampled there, a learned query's also from what the first layer should have said of it (``TeacherCriterion``).

    Args:
        classes: predicted per query by class heads; 0 where queries are told their class.
    """

    def __init__(self, config: TeacherConfig, classes: int = 0) -> None:
        super().__init__()
        c, count = config.channels, config.decoder_layers
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(count))
        # Linear: with hidden layers, as the quality heads have them, box heads learn headings (large, easy) and next to
        # nothing of heights and sizes (small beside the gradient noise of headings in the weights that both share).
        self.box_heads = nn.ModuleList(nn.Linear(c, BOX_CODE + FLAT_CODE) for _ in range(count))
        self.quality_heads = nn.ModuleList(self._head(c, 1) for _ in range(count))
        self.class_heads = nn.ModuleList(self._head(c, classes) for _ in range(count if classes else 0))
        for head in self.box_heads:
            start_at_zero(head)  # type: ignore[arg-type]
        for head in self.class_heads:
            nn.init.constant_(head[-1].bias, CLASS_BIAS)  # type: ignore[index]

    @staticmethod
    def _head(channels: int, outputs: int) -> nn.Sequential:
        hidden = [nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, outputs))

    def forward(
        self,
        queries: Queries,
        bev: Sequence[Tensor],
        range_m: Tensor,
        images: Sequence[Tensor] | None,
        views: Views | None,
    ) -> list[Decoded]:
        """One entry per layer."""
        reference, prior = queries.reference, queries.prior_size
        start = start_code(queries.axis)
        roi = decode_click_box(join_frames(start, reference), reference, prior)
        query, anchor, results = queries.content, queries.anchor, []
        for i, (layer, box_head, quality_head) in enumerate(
            zip(self.layers, self.box_heads, self.quality_heads, strict=True)
        ):
            assert isinstance(layer, DecoderLayer)
            query = layer(query, layer.fusion(query + queries.position, roi, bev, range_m, images, views))
            code = join_frames(start + box_head(query).float(), anchor)
            logit = self.class_heads[i](query).float() if self.class_heads else None
            box = decode_click_box(code, anchor, prior)
            results.append(Decoded(box, code, quality_head(query).float()[..., 0], anchor, logit))
            # What the layer says about the reference: its box, unless the code was relative to another point.
            roi = box if anchor is reference else decode_click_box(code, reference, prior)
            roi = roi.detach()
            if queries.refined:
                reference = anchor = roi[..., :3]
        return results
