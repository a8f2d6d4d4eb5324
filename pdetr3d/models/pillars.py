"""PointPillars' encoder: points -> BEV feature map, vectorized, without padding and without a cap on pillars.

Legend: P points, C channels, B samples, H rows (y) and W columns (x) of the BEV grid.
The code uses ``.shape[0]`` instead of ``len()``, and inference does not branch on sizes, because a trace would make
them constants (``finished/deploy/torchscript.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdetr3d.config import ModelConfig
from pdetr3d.models.norm import norm1d

# x, y, z, intensity, dt + offset to the pillar's mean point (3) + offset to the pillar's center (2)
POINT_FEATURES = 10
DT_UNIT_S = 0.2  # the unit of sweep ages, so that they have the scale of the other features


class PillarEncoder(nn.Module):
    """``forward(points (P, 5), point_sample (P,), batch_size) -> (B, C, H, W)``; cells without points are zero.

    Args:
        config: range, pillar size, channels and norm.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rows, self.columns = config.grid
        self.pillar_m, self.channels = config.pillar_m, config.pillar_channels
        self.most = config.pillar_points
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.tensor(config.range_m[:3]), persistent=False)
        self.register_buffer("high", torch.tensor(config.range_m[3:]), persistent=False)
        self.padding: Tensor | None
        self.register_buffer("padding", torch.zeros(self.channels) if config.pad_pillars else None)
        self.linear = nn.Linear(POINT_FEATURES, self.channels, bias=False)
        self.norm = norm1d(config.norm, self.channels)

    def forward(self, points: Tensor, point_sample: Tensor, batch_size: int) -> Tensor:
        points, cell = self.assign(points, point_sample)
        if self.training and len(points) < 2:
            # Batch statistics of no point, or of one, are undefined; keep the parameters in the graph for DDP.
            points, cell = points[:0], cell[:0]
            unused = sum(parameter.sum() for parameter in self.norm.parameters())
            features = self.linear(points.new_zeros(0, POINT_FEATURES)) + unused
        else:
            points, pillar, cell = self.group(points, cell)
            count = torch.bincount(pillar, minlength=cell.shape[0])
            features = torch.relu(self.norm(self.linear(self._decorate(points, pillar, cell, count))))
            features = run_max(features, count)
            if self.padding is not None:  # the features that a padded point would have in a pillar that is not full
                features = torch.where((count < self.most)[:, None], torch.maximum(features, self.padding), features)
        bev = features.new_zeros(batch_size * self.rows * self.columns, self.channels).index_copy(0, cell, features)
        return bev.view(batch_size, self.rows, self.columns, self.channels).permute(0, 3, 1, 2)

    def assign(self, points: Tensor, point_sample: Tensor) -> tuple[Tensor, Tensor]:
        """Drop points out of range.

        Returns:
            The kept points (P', 5), and the flat indices of their cells (P',): (b * H + row) * W + column.
        """
        inside = ((points[:, :3] >= self.low) & (points[:, :3] < self.high)).all(1)
        points, sample = points[inside], point_sample[inside]
        column, row = ((points[:, :2] - self.low[:2]) / self.pillar_m).long().unbind(1)
        column, row = column.clamp(max=self.columns - 1), row.clamp(max=self.rows - 1)
        return points, (sample * self.rows + row) * self.columns + column

    def group(self, points: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sort points by pillar, and keep at most ``model.pillar_points`` of each, evenly spaced in the cloud's order.

        The cloud comes beam by beam and sweep by sweep; even spacing keeps points of all beams and sweeps.

        Returns:
            Points (P', 5); their pillars (P',) in 0 .. N-1; the pillars' flat cell indices (N,), ascending.
        """
        cell, order = cell.int().sort(stable=True)  # sorting 64-bit numbers takes more than twice as long
        filled, pillar, count = torch.unique_consecutive(cell, return_inverse=True, return_counts=True)
        keep = thinned(pillar, count, self.most)
        return points[order[keep]], pillar[keep], filled.long()

    def _decorate(self, points: Tensor, pillar: Tensor, filled: Tensor, count: Tensor) -> Tensor:
        total = points.new_zeros(filled.shape[0], 3).index_add_(0, pillar, points[:, :3])
        mean = (total / count[:, None])[pillar]
        column, row = filled % self.columns, filled // self.columns % self.rows
        center = ((torch.stack([column, row], 1) + 0.5) * self.pillar_m + self.low[:2])[pillar]
        scaled = scale_points(points, torch.maximum(self.high, -self.low))
        # Offsets are in units of pillars: in meters (0.1 m) they would be too small beside z, but they carry the shape.
        return torch.cat([scaled, (points[:, :3] - mean) / self.pillar_m, (points[:, :2] - center) / self.pillar_m], 1)


def thinned(run: Tensor, count: Tensor, most: int) -> Tensor:
    """Select at most ``most`` evenly spaced rows of each run: (N,) bool.

    Args:
        run: (N,) ascending run numbers 0 .. R-1. count: (R,) rows of each run.
    """
    count = count.int()
    rank = torch.arange(run.shape[0], device=run.device, dtype=torch.int32) - (count.cumsum(0).int() - count)[run]
    of = count[run]
    return rank * most % of + most >= of  # true if rank * most / of passes a whole number before the next row


def scale_points(points: Tensor, reach: Tensor) -> Tensor:
    """Scale the features of points (P, 5) to order one.

    x and y are in units of ``reach`` (the range's farther end), intensity in units of 255, dt in units of DT_UNIT_S.
    """
    return torch.cat([points[:, :2] / reach[:2], points[:, 2:3], points[:, 3:4] / 255, points[:, 4:5] / DT_UNIT_S], 1)


def run_max(features: Tensor, count: Tensor) -> Tensor:
    """The maximum (R, C) of each run of features (N, C); ``count`` (R,), all > 0, are the lengths of the runs.

    Equal maxima share the gradient.
    """
    return torch.segment_reduce(features.float(), "max", lengths=count, axis=0, unsafe=True).to(features.dtype)
