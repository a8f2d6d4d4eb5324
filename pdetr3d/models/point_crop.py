"""PointNets on the LiDAR points around each click: they see an object's shape in finer detail than BEV cells.

``PointCrop`` is used before anything is known of the box: it sees a cylinder around the click, in the viewing frame and
the LiDAR frame. ``BoxCrop`` is used when a heading is known: it sees the points of a class-mean box along that heading,
in the box's frame, without the ground and neighboring objects.

Legend: B samples, K clicks, P points of all samples, N (point, click) pairs, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdetr3d.geometry.crops import GROUND_M, PAIRS, REACH_FACTOR, REACH_M
from pdetr3d.models.box_code import backwards, center_unit, turn, viewing_direction
from pdetr3d.models.pillars import DT_UNIT_S, run_max, thinned

PAIR_FEATURES = 9  # offset in the LiDAR frame (3) and viewing frame (2); height, distance, intensity, dt of the point
CLICK_FEATURES = 3  # number of points, distance, height
BOX_PAIR_FEATURES = 8  # offset in the box's frame [half sides] (3) and [m] (2); height, intensity, dt of the point
BOX_CLICK_FEATURES = CLICK_FEATURES + 2  # the viewing ray in the box's frame
BOX_MARGIN, BOX_MARGIN_M = 0.25, 0.4  # a box crop exceeds the class-mean box by this share of a side, plus meters
MAX_POINTS = 128  # points of a crop; more are thinned out evenly, since 400 points on a car show no more


@dataclass(frozen=True)
class Clicks:
    """The clicks of a batch and the points near them.

    Attributes:
        points: (P, 5) of all samples. click: (B, K, 3) [m]. prior: (B, K, 3) mean l, w, h [m] of the clicks' classes.
        label: (B, K) int64. point, crop: (N,) int64 each: point ``point[i]`` lies near click ``crop[i]`` = b * K + k;
            ``crop`` ascends. picture: (B, K, C) features of ``PictureCrop``, or None.
    """

    points: Tensor
    click: Tensor
    prior: Tensor
    label: Tensor
    point: Tensor
    crop: Tensor
    picture: Tensor | None = None


def find_clicks(
    points: Tensor, point_sample: Tensor, click: Tensor, label: Tensor, valid: Tensor, prior_size_m: Tensor
) -> Clicks:
    """Make ``Clicks`` from points (P, 5), their samples (P,), clicks (B, K, 3), their classes and validity (B, K)."""
    prior = prior_size_m[label]
    return Clicks(points, click, prior, label, *crop_pairs(points, point_sample, click, prior, valid))


class PointNet(nn.Module):
    """Turns the features of a crop's points into one vector per click.

    Two layers per point, the crop's maximum joined to each point, two more layers, the maximum again, which is joined
    with the click's features and class for the last layers.

    Args:
        pair_features, click_features: their numbers. channels: C. classes: number of classes.
    """

    def __init__(self, pair_features: int, click_features: int, channels: int, classes: int) -> None:
        super().__init__()
        c = channels
        self.point, self.mix = _layers(pair_features, c, c), _layers(2 * c, c, 2 * c)
        self.embedding = nn.Embedding(classes, c)
        self.join = _layers(2 * c + 1 + click_features + c, 2 * c, c)

    def forward(self, pair: Tensor, crop: Tensor, known: Tensor, label: Tensor) -> Tensor:
        """Run the network.

        Args:
            pair: (N, F) features of points. crop: (N,) their clicks, ascending. known: (B, K, G) features of clicks.
                label: (B, K) classes of clicks.

        Returns:
            (B, K, C), >= 0.
        """
        filled, rank, count = torch.unique_consecutive(crop, return_inverse=True, return_counts=True)
        feature = self.point(pair)
        feature = self.mix(torch.cat([feature, run_max(feature, count)[rank]], -1))
        top = run_max(feature, count)
        shape = top.new_zeros(label.numel(), top.shape[1]).index_copy(0, filled, top)
        number = top.new_zeros(label.numel()).index_copy(0, filled, count.to(top.dtype)).view(label.shape)
        known = torch.cat([(number.log1p() / 5)[..., None], known.to(top.dtype)], -1)
        return self.join(torch.cat([shape.unflatten(0, label.shape), known, self.embedding(label)], -1))


class PointCrop(nn.Module):
    """One vector per click from the points around it, in the viewing frame and the LiDAR frame.

    Args:
        channels: C. classes: number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.net = PointNet(PAIR_FEATURES, CLICK_FEATURES - 1, channels, classes)

    def forward(self, clicks: Clicks) -> Tensor:
        """The vectors (B, K, C), >= 0."""
        keep = thin(clicks.crop)
        point, crop = clicks.points[clicks.point[keep]], clicks.crop[keep]
        click, prior = (t.flatten(0, 1)[crop] for t in (clicks.click, clicks.prior))
        return self.net(pair_features(point, click, prior), crop, place_of(clicks.click), clicks.label)


class BoxCrop(nn.Module):
    """One vector per click from the points in a class-mean box along a known heading, in the box's frame.

    Args:
        channels: C. classes: number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.net = PointNet(BOX_PAIR_FEATURES, BOX_CLICK_FEATURES - 1, channels, classes)

    def forward(self, clicks: Clicks, frame: Tensor) -> Tensor:
        """The vectors (B, K, C), >= 0; ``frame`` (B, K, 2) are cos and sin of the headings."""
        back = backwards(frame)
        point, click, prior = (
            clicks.points[clicks.point],
            *(t.flatten(0, 1)[clicks.crop] for t in (clicks.click, clicks.prior)),
        )
        offset = turn(point[:, :3] - click, back.flatten(0, 1)[clicks.crop])
        keep = torch.nonzero(in_box(offset, prior))[:, 0]
        keep = keep[thin(clicks.crop[keep])]
        point, offset, prior, crop = point[keep], offset[keep], prior[keep], clicks.crop[keep]
        pair = torch.cat(
            [2 * offset / prior, offset[:, :2], point[:, 2:3], point[:, 3:4] / 255, point[:, 4:5] / DT_UNIT_S], 1
        )
        known = torch.cat([place_of(clicks.click), turn(viewing_direction(clicks.click), back)], -1)
        return self.net(pair, crop, known, clicks.label)


def in_box(offset: Tensor, prior: Tensor) -> Tensor:
    """(N,) bool: points in the enlarged class-mean box and above the ground.

    Args:
        offset: (N, 3) of the points from the click, in the box's frame [m]. prior: (N, 3) mean l, w, h [m].
    """
    half = prior * (0.5 + BOX_MARGIN) + BOX_MARGIN_M
    above = offset[:, 2] >= GROUND_M - prior[:, 2] / 2
    return (offset.abs() <= half).all(-1) & above


def thin(crop: Tensor) -> Tensor:
    """Select at most MAX_POINTS evenly spaced pairs of each click: (N,) bool; ``crop`` (N,) are ascending clicks."""
    _, run, count = torch.unique_consecutive(crop, return_inverse=True, return_counts=True)
    return thinned(run, count, MAX_POINTS)


def crop_pairs(
    points: Tensor, point_sample: Tensor, click: Tensor, prior: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the points around each click of their sample.

    A crop reaches ``REACH_FACTOR`` of the class-mean footprint's diagonal plus ``REACH_M`` sideways, and the mean
    height plus ``REACH_M`` up and down.

    Args:
        prior: (B, K, 3) mean l, w, h [m] of the clicks' classes. Other arguments as in ``find_clicks``.

    Returns:
        Indices of points (N,) and of clicks b * K + k (N,); the latter ascend.
    """
    radius = REACH_FACTOR * prior[..., :2].norm(dim=-1) + REACH_M
    if click.shape[1] == 1:  # batches of ``CropLoader``: all points of a sample are near its only click
        offset, own = points[:, :3] - click[point_sample, 0], valid[point_sample, 0]
        near = own & (offset[:, :2].norm(dim=1) <= radius[point_sample, 0])
        near &= offset[:, 2].abs() <= prior[point_sample, 0, 2] + REACH_M
        point = torch.nonzero(near)[:, 0]
        return point, point_sample[point]
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
            found.append(mine[index])
            crops.append(crop + b * click.shape[1] + first)
    if not found:
        return point_sample.new_zeros(0), point_sample.new_zeros(0)
    return torch.cat(found), torch.cat(crops)


def pair_features(point: Tensor, click: Tensor, prior: Tensor) -> Tensor:
    """Points (N, 5), their clicks (N, 3), class-mean sizes (N, 3) -> features (N, PAIR_FEATURES)."""
    offset = (point[:, :3] - click) / center_unit(prior)
    seen = turn(offset, backwards(viewing_direction(click)))
    far = point[:, :2].norm(dim=1, keepdim=True) / 50
    return torch.cat([offset, seen[:, :2], point[:, 2:3], far, point[:, 3:4] / 255, point[:, 4:5] / DT_UNIT_S], 1)


def place_of(click: Tensor) -> Tensor:
    """Clicks (B, K, 3) -> (B, K, 2): distance from the sensor in units of 50 m, and height [m]."""
    return torch.stack([click[..., :2].norm(dim=-1) / 50, click[..., 2]], -1)


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers with outputs >= 0. They use layer norm, because a batch may hold a single point."""
    first = [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(hidden, outputs), nn.LayerNorm(outputs), nn.ReLU())
