"""Masks of point guidance on the canonical BEV grid: the cells at which it compares the two views.

Legend: B samples, H rows (y), W columns (x), K clicks (padded), P points, N boxes of all samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdetr3d.batch import Batch, hashed_uniform
from pdetr3d.losses.center_criterion import gaussian_maps

GROUND_CELL_M = 4.0  # a car does not hide all ground of such a cell, and a slope of 5 % rises only 0.2 m in it
ABOVE_GROUND_M = (0.3, 3.0)  # the heights of road users; higher up are signs, wires and trees


@dataclass(frozen=True)
class Grid:
    """A BEV grid in the canonical frame; ``low_m`` is its low corner (x, y), ``cell_m`` the side of a cell."""

    low_m: tuple[float, float]
    cell_m: float
    rows: int
    columns: int

    def flat(self, xy_m: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Find the cells of places (P, 2) [m] in samples (P,).

        Returns:
            (P,) bool: whether the place lies on the grid; and (P,) int64: the index into B * H * W cells, valid only
            for places on the grid.
        """
        column, row = ((xy_m - xy_m.new_tensor(self.low_m)) / self.cell_m).floor().long().unbind(1)
        inside = (row >= 0) & (row < self.rows) & (column >= 0) & (column < self.columns)
        return inside, (sample * self.rows + row) * self.columns + column


def drawn_clicks(click: Tensor, share: float) -> Tensor:
    """Draw each augmented click (B, K, 3) with probability ``share``: (B, K) bool.

    The draw is a hash of the click's coordinates. Their augmentation is keyed by (seed, pass, sample token), so that
    the draw is the same on every worker and after a resume, but differs in the next pass.
    """
    return (hashed_uniform(click, 1)[..., 0, 0] + 1) / 2 < share


def click_mask(batch: Batch, drawn: Tensor, sigma_m: Tensor, grid: Grid) -> Tensor:
    """(B, H, W) in [0, 1]: a Gaussian around each drawn click, 1 at its cell and 0 beyond 3 sigma; the largest counts.

    Args:
        drawn: (B, K) bool, the clicks to use. sigma_m: (C,) sigma per class [m].
    """
    sample, index = torch.nonzero(drawn, as_tuple=True)
    inside, flat = grid.flat(batch.canonical_click[sample, index, :2], sample)
    sigma = sigma_m.to(batch.click)[batch.click_label[sample, index][inside]] / grid.cell_m
    cell = flat[inside] % (grid.rows * grid.columns)
    center = torch.stack([cell // grid.columns, cell % grid.columns], 1)
    return gaussian_maps(center, sigma, 3 * sigma, sample[inside], (len(batch), grid.rows, grid.columns))


def box_mask(batch: Batch, grid: Grid) -> Tensor:
    """(B, H, W) of 0 and 1: cells whose center lies in a training box (human or pseudo), seen from above.

    The cell nearest to a box's center is always included, because a small box may lie between the cells' centers.
    Boxes are in the augmented frame, so the centers of the canonical cells are moved to that frame.
    """
    row, column = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.columns), indexing="ij")
    center = (torch.stack([column, row], -1).flatten(0, 1).to(batch.box) + 0.5) * grid.cell_m
    x, y = (center + center.new_tensor(grid.low_m)).unbind(1)  # (H * W,)
    sample, index = torch.nonzero(batch.box_valid, as_tuple=True)
    box, matrix = batch.box[sample, index, :, None], batch.augmentation[sample, :, :, None]  # (N, 7, 1), (N, 4, 4, 1)
    dx, dy = (matrix[:, i, 0] * x + matrix[:, i, 1] * y + matrix[:, i, 3] - box[:, i] for i in (0, 1))  # (N, H * W)
    cos, sin = box[:, 6].cos(), box[:, 6].sin()
    inside = ((dx * cos + dy * sin).abs() <= box[:, 3] / 2) & ((dy * cos - dx * sin).abs() <= box[:, 4] / 2)
    distance = dx.square() + dy.square()
    nearest = distance.min(1, keepdim=True).values
    inside |= (distance == nearest) & (nearest <= grid.cell_m**2)  # a box farther from all cells is off the grid
    hits = batch.box.new_zeros(len(batch), grid.rows * grid.columns).index_add(0, sample, inside.to(batch.box.dtype))
    return hits.clamp(max=1).view(len(batch), grid.rows, grid.columns)


def foreground_mask(batch: Batch, grid: Grid) -> Tensor:
    """(B, H, W) of 0 and 1: cells with a point of the weak (canonical) view at a height of ABOVE_GROUND_M."""
    mask = batch.weak_points.new_zeros(len(batch) * grid.rows * grid.columns)
    inside, flat = grid.flat(batch.weak_points[:, :2], batch.weak_point_sample)
    points, flat = batch.weak_points[inside], flat[inside]
    height = points[:, 2] - local_ground(points, batch.weak_point_sample[inside], grid)
    mask[flat[(height > ABOVE_GROUND_M[0]) & (height < ABOVE_GROUND_M[1])]] = 1
    return mask.view(len(batch), grid.rows, grid.columns)


def local_ground(points: Tensor, sample: Tensor, grid: Grid) -> Tensor:
    """The z [m] of the ground below each of the points (P, 3+) in samples (P,): (P,).

    It is the lowest tenth percentile of z in the point's cell of GROUND_CELL_M: the lowest points may be reflections.
    """
    side = int(max(grid.rows, grid.columns) * grid.cell_m // GROUND_CELL_M) + 1
    coarse = ((points[:, :2] - points.new_tensor(grid.low_m)) / GROUND_CELL_M).floor().long()
    key = (sample * side + coarse[:, 1]) * side + coarse[:, 0]
    _, cell, count = torch.unique(key, return_inverse=True, return_counts=True)
    order = points[:, 2].argsort()
    order = order[cell[order].argsort(stable=True)]  # by cell, lowest first
    first = count.cumsum(0) - count
    return points[order[first + count // 10], 2][cell]
