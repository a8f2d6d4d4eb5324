"""The voxel encoder: points -> mean point per voxel (SECOND's HardSimpleVFE) -> sparse encoder -> BEV feature map.

Legend: P points, N voxels, B samples, C channels, D x H x W voxels along z, y, x. BEV maps: rows = y, columns = x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdetr3d.config import ModelConfig
from pdetr3d.models.pillars import scale_points
from pdetr3d.models.sparse_conv import SparseTensor, cells_of, flat_index
from pdetr3d.models.sparse_encoder import SparseEncoder

POINT_FEATURES = 5  # x, y, z, intensity, dt


class VoxelEncoder(nn.Module):
    """``forward(points (P, 5), point_sample (P,), batch_size) -> (B, C, H / stride, W / stride)``.

    Args:
        config: range, voxel size, caps, channels and norm. C is ``config.bev_channels``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.shape, self.most, self.max_voxels = config.voxel_grid, config.voxel_points, config.max_voxels
        self.low: Tensor
        self.high: Tensor
        self.voxel_m: Tensor
        self.held: Tensor
        self.register_buffer("low", torch.tensor(config.range_m[:3]), persistent=False)
        self.register_buffer("high", torch.tensor(config.range_m[3:]), persistent=False)
        self.register_buffer("voxel_m", torch.tensor(config.voxel_m), persistent=False)
        # Along z the grid has one layer more than the range; it stays empty.
        self.register_buffer("held", torch.tensor([self.shape[2], self.shape[1], self.shape[0] - 1]), persistent=False)
        self.encoder = SparseEncoder(POINT_FEATURES, config.voxel_channels, config.norm)

    def forward(self, points: Tensor, point_sample: Tensor, batch_size: int) -> Tensor:
        return self.encoder(self.voxelize(points, point_sample, batch_size))

    def voxelize(self, points: Tensor, point_sample: Tensor, batch_size: int) -> SparseTensor:
        """The mean (N, 5) of each voxel's points, with features scaled by ``scale_points``.

        A voxel keeps its first ``model.voxel_points`` points in the order of the cloud; a sample keeps its first
        ``model.max_voxels`` voxels in the order of their first points, as mmcv's deterministic hard voxelization does
        with an unshuffled cloud. The cloud begins with the keyframe and goes back in time, so that old points are
        dropped first.
        """
        points, index = self.assign(points, point_sample)
        index, order = index.sort(stable=True)
        filled, voxel, count = torch.unique_consecutive(index, return_inverse=True, return_counts=True)
        begin = count.cumsum(0) - count
        cells = cells_of(filled, self.shape)
        kept = self._within_cap(cells[:, 0], order[begin])
        rank = torch.arange(len(index), device=index.device) - begin[voxel]
        taken = (rank < self.most) & kept[voxel]
        voxel = (kept.cumsum(0) - 1)[voxel[taken]]  # renumbered without the voxels over the cap
        rows = scale_points(points[order[taken]], torch.maximum(self.high, -self.low))
        total = rows.new_zeros(int(kept.sum()), POINT_FEATURES).index_add_(0, voxel, rows)
        mean = total / count[kept].clamp(max=self.most)[:, None]
        return SparseTensor(mean, cells[kept], self.shape, batch_size)

    def assign(self, points: Tensor, point_sample: Tensor) -> tuple[Tensor, Tensor]:
        """Drop points out of range; return the kept points (P', 5) and the flat indices of their voxels (P',)."""
        xyz = ((points[:, :3] - self.low) / self.voxel_m).floor().long()
        inside = ((xyz >= 0) & (xyz < self.held)).all(1)
        cells = torch.cat([point_sample[:, None], xyz.flip(1)], 1)[inside]
        return points[inside], flat_index(cells, self.shape)

    def _within_cap(self, sample: Tensor, first_point: Tensor) -> Tensor:
        """(N,) bool: the voxel is among the first ``model.max_voxels`` of its sample; ``sample`` (N,) ascends."""
        by_point = first_point.argsort()
        by_sample = by_point[sample[by_point].argsort(stable=True)]  # by sample, then by first point
        count = torch.bincount(sample)
        place = torch.arange(len(sample), device=sample.device) - (count.cumsum(0) - count)[sample]
        kept = torch.empty_like(sample, dtype=torch.bool)
        kept[by_sample] = place < self.max_voxels[0 if self.training else 1]
        return kept
