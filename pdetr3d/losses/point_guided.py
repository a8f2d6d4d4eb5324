"""Point-guided self-supervision (PGSS): weak and strong view agree at the clicks (method.md 5.4-5.6, corrected design).

Legend: B samples, C channels, H rows (y), W columns (x), K clicks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pdetr3d.batch import Batch, RankMean
from pdetr3d.config import Config
from pdetr3d.losses.center_criterion import gaussian_maps


def warp_to_canonical(features: Tensor, lidar2augmented: Tensor, half_range_m: float) -> Tensor:
    """Sample augmented-view BEV features at where each canonical cell went: one affine warp (method.md 5.4).

    Args:
        features: (B, C, H, W) of the augmented view, rows = y, columns = x, square range centered on the sensor.
        lidar2augmented: (B, 4, 4).
        half_range_m: R of the range [-R, R].

    Returns:
        (B, C, H, W) in the canonical frame; zero where the canonical cell left the augmented view's range.
    """
    theta = torch.cat([lidar2augmented[:, :2, :2], lidar2augmented[:, :2, 3:4] / half_range_m], 2)
    grid = F.affine_grid(theta.to(features.dtype), list(features.shape), align_corners=False)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class PointGuidance:
    """``(strong, weak, batch) -> loss``: weighted squared distance of L2-normalized features under masks at the clicks.

    Args:
        config: guidance choice and weight.
        sigma_m: (10,) Gaussian sigma per class [m] (``config.sigma_m`` of the class prior).
        rank_mean: mean of a scalar over ranks.
    """

    def __init__(self, config: Config, sigma_m: Tensor, rank_mean: RankMean) -> None:
        self.config, self.sigma_m, self.rank_mean = config, sigma_m, rank_mean
        self.cell_m = config.student_cell_m

    def mask(self, batch: Batch, rows: int, columns: int) -> Tensor:
        """(B, H, W) float32 in [0, 1], canonical frame: the Gaussians at the clicks, or ones for ``guidance=full``."""
        if self.config.student.guidance == "full":
            return batch.click.new_ones(len(batch), rows, columns)
        low = batch.click.new_tensor(self.config.model.range_m[:2])
        cell = ((batch.canonical_click[..., :2] - low) / self.cell_m).floor().long()
        inside = (cell >= 0).all(-1) & (cell[..., 0] < columns) & (cell[..., 1] < rows)
        sample, index = torch.nonzero(batch.click_valid & inside, as_tuple=True)
        sigma = self.sigma_m.to(low.device)[batch.click_label[sample, index]].to(low.dtype) / self.cell_m
        center = cell[sample, index].flip(-1)
        return gaussian_maps(center, sigma, 3 * sigma, sample, (len(batch), rows, columns))

    def __call__(self, strong: Tensor, weak: Tensor, batch: Batch) -> Tensor:
        rows, columns = strong.shape[-2:]
        half_range = self.config.model.range_m[3]
        aligned = warp_to_canonical(strong, batch.augmentation, half_range)
        seen = warp_to_canonical(torch.ones_like(strong[:, :1]), batch.augmentation, half_range)[:, 0] > 0.999
        mask = self.mask(batch, rows, columns) * seen
        distance = 2 - 2 * (F.normalize(aligned.float(), dim=1) * F.normalize(weak.float(), dim=1)).sum(1)
        mass = self.rank_mean(mask.sum()).clamp(min=1e-6)
        return self.config.student.guidance_weight * (mask * distance).sum() / mass
