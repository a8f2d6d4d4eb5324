"""Baseline: a PointNet on the LiDAR points round each click -> one box per click. No cameras, no map of the scene.

Legend: B samples, K clicks, P points of all samples, N (point, click) pairs, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdetr3d.batch import Batch, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.models.decoder import (
    BOX_CODE,
    FLAT_CODE,
    center_unit,
    decode_click_box,
    join_frames,
    start_at_zero,
    start_code,
    turn,
    viewing_direction,
)
from pdetr3d.models.pillars import DT_UNIT_S, pillar_max, thinned
from pdetr3d.models.point_query import click_axes, own_click

REACH_FACTOR, REACH_M = 0.6, 0.5  # the crop's radius: this share of the mean footprint's diagonal, and this much more
PAIR_FEATURES = 9  # offset in the LiDAR frame (3) and the viewing frame (2), height and distance of the point, I, dt
CLICK_FEATURES = 3  # how many points, how far, how high
MAX_POINTS = 256  # of a crop; more are thinned out evenly


class CropRegressor(nn.Module):
    """``forward(batch) -> TeacherOutput`` of one layer, as the teacher's: row k answers for click k.

    Args:
        config: ``teacher.channels`` is the width. prior_size_m: (10, 3) mean l, w, h per class.
    """

    def __init__(self, config: Config, prior_size_m: Tensor) -> None:
        super().__init__()
        c = config.teacher.channels
        self.point, self.mix = _layers(PAIR_FEATURES, c, c), _layers(2 * c, c, 2 * c)
        self.embedding = nn.Embedding(len(prior_size_m), c)
        self.join = _layers(2 * c + CLICK_FEATURES + c, 2 * c, c)
        self.dropout = nn.Dropout(config.teacher.dropout)
        self.box_head, self.quality_head = nn.Linear(c, BOX_CODE + FLAT_CODE), nn.Linear(c, 1)
        start_at_zero(self.box_head)
        self.start = config.teacher.heading_start
        self.prior_size_m: Tensor
        self.register_buffer("prior_size_m", prior_size_m.float())

    def forward(self, batch: Batch) -> TeacherOutput:
        b, k = batch.click_valid.shape
        click, prior = batch.click, self.prior_size_m[batch.click_label]
        point, crop = self.pairs(batch)
        filled, rank, count = torch.unique_consecutive(crop, return_inverse=True, return_counts=True)
        feature = self.point(pair_features(batch.points[point], click.flatten(0, 1)[crop], prior.flatten(0, 1)[crop]))
        feature = self.mix(torch.cat([feature, pillar_max(feature, rank, len(filled))[rank]], -1))
        shape = feature.new_zeros(b * k, feature.shape[1]).index_copy(0, filled, pillar_max(feature, rank, len(filled)))
        points = feature.new_zeros(b * k).index_copy(0, filled, count.to(feature.dtype))
        place = torch.stack([points.view(b, k).log1p() / 5, click[..., :2].norm(dim=-1) / 50, click[..., 2]], -1)
        query = self.join(torch.cat([shape.view(b, k, shape.shape[1]), place, self.embedding(batch.click_label)], -1))
        query = self.dropout(query)
        start = start_code(click_axes(batch, self.prior_size_m, self.start))
        code = join_frames(start + self.box_head(query).float(), click)
        box = decode_click_box(code, click, prior)
        quality = self.quality_head(query).float()[..., 0]
        return TeacherOutput([box], [code], [quality], [click], [], prior, own_click(batch.click_label))

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which points lie round which clicks: indices of points (N,) and of clicks b * K + k (N,), the latter rising.

        A crop reaches ``REACH_FACTOR`` of the class-mean footprint's diagonal plus ``REACH_M`` sideways and the mean
        height plus ``REACH_M`` up and down. Sample by sample: a point meets the clicks of its own sample only.
        """
        clicks = batch.click_valid.shape[1]
        prior = self.prior_size_m[batch.click_label]
        radius = REACH_FACTOR * prior[..., :2].norm(dim=-1) + REACH_M
        points, crops = [], []
        for b in range(len(batch)):
            mine = torch.nonzero(batch.point_sample == b)[:, 0]
            offset = batch.points[mine, :3] - batch.click[b, :, None]  # (K, P_b, 3)
            near = offset[..., :2].square().sum(-1) <= radius[b, :, None] ** 2
            near &= (offset[..., 2].abs() <= prior[b, :, 2:3] + REACH_M) & batch.click_valid[b, :, None]
            crop, index = torch.nonzero(near, as_tuple=True)
            _, run, count = torch.unique_consecutive(crop, return_inverse=True, return_counts=True)
            keep = thinned(run, count, MAX_POINTS)
            points.append(mine[index[keep]])
            crops.append(crop[keep] + b * clicks)
        return torch.cat(points), torch.cat(crops)


def pair_features(point: Tensor, click: Tensor, prior: Tensor) -> Tensor:
    """(N, 5) points, (N, 3) their clicks, (N, 3) class-mean sizes -> (N, PAIR_FEATURES)."""
    offset = (point[:, :3] - click) / center_unit(prior)
    seen = turn(offset, viewing_direction(click) * click.new_tensor([1.0, -1.0]))
    far = point[:, :2].norm(dim=1, keepdim=True) / 50
    return torch.cat([offset, seen[:, :2], point[:, 2:3], far, point[:, 3:4] / 255, point[:, 4:5] / DT_UNIT_S], 1)


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers; outputs are >= 0, as ``pillar_max`` wants them. Layer norm: a batch may hold a single point."""
    first = [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(hidden, outputs), nn.LayerNorm(outputs), nn.ReLU())
