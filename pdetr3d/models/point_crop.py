"""A PointNet on the LiDAR points round each click: the shape of what was clicked, finer than any BEV cell.

Legend: B samples, K clicks, P points of all samples, N (point, click) pairs, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdetr3d.geometry.crops import PAIRS
from pdetr3d.models.decoder import center_unit, turn, viewing_direction
from pdetr3d.models.pillars import DT_UNIT_S, pillar_max, thinned

REACH_FACTOR, REACH_M = 0.6, 0.5  # the crop's radius: this share of the mean footprint's diagonal, and this much more
PAIR_FEATURES = 9  # offset in the LiDAR frame (3) and the viewing frame (2), height and distance of the point, I, dt
CLICK_FEATURES = 3  # how many points, how far, how high
MAX_POINTS = 256  # of a crop; more are thinned out evenly


class PointCrop(nn.Module):
    """The points round each click, in the viewing frame and the LiDAR frame -> a vector per click.

    Args:
        channels: C. prior_size_m: (10, 3) mean l, w, h per class; stored with the weights.
    """

    def __init__(self, channels: int, prior_size_m: Tensor) -> None:
        super().__init__()
        c = channels
        self.point, self.mix = _layers(PAIR_FEATURES, c, c), _layers(2 * c, c, 2 * c)
        self.embedding = nn.Embedding(len(prior_size_m), c)
        self.join = _layers(2 * c + CLICK_FEATURES + c, 2 * c, c)
        self.prior_size_m: Tensor
        self.register_buffer("prior_size_m", prior_size_m.float())

    def forward(self, points: Tensor, point_sample: Tensor, click: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """Points (P, 5) of samples (P,), clicks (B, K, 3), their classes and validity (B, K) -> (B, K, C), >= 0."""
        prior = self.prior_size_m[label]
        point, crop = crop_pairs(points, point_sample, click, prior, valid)
        filled, rank, count = torch.unique_consecutive(crop, return_inverse=True, return_counts=True)
        crops = filled.shape[0]
        feature = self.point(pair_features(points[point], click.flatten(0, 1)[crop], prior.flatten(0, 1)[crop]))
        feature = self.mix(torch.cat([feature, pillar_max(feature, rank, crops)[rank]], -1))
        shape = feature.new_zeros(label.numel(), feature.shape[1]).index_copy(
            0, filled, pillar_max(feature, rank, crops)
        )
        number = feature.new_zeros(label.numel()).index_copy(0, filled, count.to(feature.dtype)).view(label.shape)
        place = torch.stack([number.log1p() / 5, click[..., :2].norm(dim=-1) / 50, click[..., 2]], -1)
        return self.join(torch.cat([shape.unflatten(0, label.shape), place, self.embedding(label)], -1))


def crop_pairs(
    points: Tensor, point_sample: Tensor, click: Tensor, prior: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Which points lie round which clicks: indices of points (N,) and of clicks b * K + k (N,), the latter rising.

    A crop reaches ``REACH_FACTOR`` of the class-mean footprint's diagonal plus ``REACH_M`` sideways, the mean height
    plus ``REACH_M`` up and down. Sample by sample: a point meets the clicks of its own sample only.
    ``prior``: (B, K, 3) mean l, w, h [m] of the clicks' classes; the rest as ``PointCrop`` takes it.
    """
    radius = REACH_FACTOR * prior[..., :2].norm(dim=-1) + REACH_M
    found, crops = [], []
    for b in range(len(click)):
        mine = torch.nonzero(point_sample == b)[:, 0]
        place = points[mine, :3]
        chunk = max(1, PAIRS // max(1, len(mine)))
        for first in range(0, click.shape[1], chunk):
            some = slice(first, first + chunk)
            x, y, z = (place[:, i] - click[b, some, i, None] for i in range(3))  # (k, P_b)
            near = x.square() + y.square() <= radius[b, some, None] ** 2
            near &= (z.abs() <= prior[b, some, 2:3] + REACH_M) & valid[b, some, None]
            crop, index = torch.nonzero(near, as_tuple=True)
            _, run, count = torch.unique_consecutive(crop, return_inverse=True, return_counts=True)
            keep = thinned(run, count, MAX_POINTS)
            found.append(mine[index[keep]])
            crops.append(crop[keep] + b * click.shape[1] + first)
    if not found:
        return point_sample.new_zeros(0), point_sample.new_zeros(0)
    return torch.cat(found), torch.cat(crops)


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
