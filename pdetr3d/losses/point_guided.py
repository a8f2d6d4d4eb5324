"""Point-guided self-supervision (PGSS): the features of weak and strong view must agree at clicks (method.md 5.4-5.6).

Legend: B samples, C channels, H rows (y), W columns (x).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pdetr3d.batch import Batch, RankMean
from pdetr3d.config import Config
from pdetr3d.losses.guidance_masks import Grid, box_mask, click_mask, drawn_clicks, foreground_mask


def warp_to_canonical(features: Tensor, lidar2augmented: Tensor, range_m: tuple[float, float, float, float]) -> Tensor:
    """Sample the augmented view's BEV features at the canonical cells, with one affine warp (method.md 5.4).

    Args:
        features: (B, C, H, W) of the augmented view, rows = y, columns = x.
        lidar2augmented: (B, 4, 4).
        range_m: x0, y0, x1, y1 of the maps [m].

    Returns:
        (B, C, H, W) in the canonical frame; zero for cells that the augmentation moved out of range.
    """
    return _sample(features, canonical_grid(features, lidar2augmented, range_m))


def canonical_grid(features: Tensor, lidar2augmented: Tensor, range_m: tuple[float, float, float, float]) -> Tensor:
    """The places (B, H, W, 2), x and y in [-1, 1] over the range, at which ``warp_to_canonical`` samples."""
    middle, half = ([(range_m[i + 2] + sign * range_m[i]) / 2 for i in (0, 1)] for sign in (1, -1))
    linear, shift = lidar2augmented[:, :2, :2], lidar2augmented[:, :2, 3:4]
    to, origin = linear.new_tensor(half)[:, None], linear.new_tensor(middle)[:, None]
    theta = torch.cat([linear * (to.T / to), (linear @ origin + shift - origin) / to], 2)
    return F.affine_grid(theta.to(features.dtype), list(features.shape), align_corners=False)


def _sample(features: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def ramp_of(warmup: float, share: float) -> float:
    """Factor on a loss weight after ``share`` of the steps: linear from 0 to 1 over the share ``warmup``."""
    return 1.0 if share >= warmup else share / warmup


class PointGuidance:
    """``(strong, weak, batch) -> loss``: weighted squared distance of L2-normalized features under a mask.

    With Gaussians around clicks, the weighted sum over cells is divided by the number of clicks (method.md 7.2 no. 15),
    so that objects count as in the detection losses. Every other mask is scaled to the total weight of these Gaussians:
    the kinds of guidance then differ only in the cells that they compare.

    Args:
        config: guidance choice and weight.
        sigma_m: (C,) Gaussian sigma per class [m] (``config.sigma_m`` of the class prior).
        rank_mean: mean of a scalar over ranks.
        ramp: factor on the weight (``ramp_of``).
    """

    def __init__(self, config: Config, sigma_m: Tensor, rank_mean: RankMean, ramp: float = 1.0) -> None:
        self.config, self.sigma_m, self.rank_mean = config, sigma_m, rank_mean
        self.weight = config.student.guidance_weight * ramp

    def mask(self, batch: Batch, rows: int, columns: int) -> Tensor:
        """(B, H, W) float32 in [0, 1], canonical frame, by ``student.guidance``."""
        kind, low = self.config.student.guidance, self.config.model.range_m
        grid = Grid((low[0], low[1]), self.config.student_cell_m, rows, columns)
        if kind == "full":
            return batch.click.new_ones(len(batch), rows, columns)
        if kind == "box":
            return box_mask(batch, grid)
        if kind == "segmentation":
            return foreground_mask(batch, grid)
        if kind == "partial":
            drawn = batch.click_valid & drawn_clicks(batch.click, self.config.student.guidance_click_share)
            return click_mask(batch, drawn, self.sigma_m, grid)
        return self.gaussians(batch, rows, columns)

    def gaussians(self, batch: Batch, rows: int, columns: int) -> Tensor:
        """(B, H, W) float32 in [0, 1], canonical frame: the Gaussians of all clicks."""
        low = self.config.model.range_m
        grid = Grid((low[0], low[1]), self.config.student_cell_m, rows, columns)
        return click_mask(batch, batch.click_valid, self.sigma_m, grid)

    def __call__(self, strong: Tensor, weak: Tensor, batch: Batch) -> Tensor:
        # In half precision the warp would sample up to a quarter of a cell beside the right place.
        with torch.autocast(strong.device.type, enabled=False):
            return self._loss(strong.float(), weak.float(), batch)

    def _loss(self, strong: Tensor, weak: Tensor, batch: Batch) -> Tensor:
        rows, columns = strong.shape[-2:]
        grid = canonical_grid(strong, batch.augmentation, self.config.model.bev_range_m)
        held = torch.ones_like(strong[:, :1]) if batch.known is None else batch.known[:, None].to(strong)
        seen = _sample(held, grid)[:, 0] > 0.999
        mask, gaussians = self.mask(batch, rows, columns) * seen, self.gaussians(batch, rows, columns) * seen
        # Only cells under the mask are computed: with masks at objects these are about a hundredth of all.
        sample, row, column = torch.nonzero(mask, as_tuple=True)
        places = [grid[b, row[sample == b], column[sample == b]] for b in range(len(batch))]
        aligned = torch.cat([_sample(strong[b : b + 1], p[None, :, None])[0, :, :, 0].T for b, p in enumerate(places)])
        distance = 2 - 2 * (F.normalize(aligned) * F.normalize(weak[sample, :, row, column])).sum(1)
        mass = self.rank_mean(mask.sum()).clamp(min=1e-6)
        per_click = self.rank_mean(gaussians.sum()) / self.rank_mean(batch.click_valid.sum().float()).clamp(min=1e-6)
        return self.weight * per_click * (mask[sample, row, column] * distance).sum() / mass
