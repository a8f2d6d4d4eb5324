"""How points move with time: what the sweeps' ages show of the objects' motion, on the student's BEV grid.

Which way an object heads often shows in its motion alone. Within a pillar motion is a product of ages and places, which
a maximum over points hardly shows: here it is fitted, and goes to the student's head as it is.

Measured on the quickstart's world (boxes everywhere, 756 steps, seeds 0 and 1; without it in brackets): headings of
walking people: 23 and 20 % are reversed (48 at seed 0); AOE of cars 0.61 and 0.56 (0.79 and 0.65); mATE 0.50 (0.53);
but mAP is 0.293 and 0.286 (0.305 and 0.304) and SPNDS 0.337 and 0.334 (0.345). So no preset asks for it.

Legend: P points, B samples, H rows (y), W columns (x) of the head's grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.config import Config

CHANNELS = 2  # along x, y
CELL_M = 0.5  # about the side of the cells that points are counted in; a whole number of them is a cell of the head
SQUARE_M = 1.5  # about the side of the square of such cells whose points are fitted together: a person and a step
MOST_M_S = 2.0  # faster is shown as this fast: it is about the direction
DAMPING_S2 = 0.02  # added to the spread of the ages, so that few points show little


class Drift(nn.Module):
    """``forward(points (P, 5), point_sample (P,), batch_size) -> (B, 2, H, W)`` [m/s]; it has no weights.

    The slope of x and y over time, by least squares over the points of a square; 0 where there are none, and of a
    single sweep.

    Args:
        config: range and grid of the student.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.parts = max(1, round(config.student_cell_m / CELL_M))
        self.cell_m = config.student_cell_m / self.parts
        self.rows, self.columns = (self.parts * side for side in config.student_grid)
        self.low: Tensor
        self.register_buffer("low", torch.tensor(config.model.range_m[:2]), persistent=False)

    def forward(self, points: Tensor, point_sample: Tensor, batch_size: int) -> Tensor:
        place = ((points[:, :2] - self.low) / self.cell_m).floor().long()
        column, row = place.unbind(1)
        inside = (column >= 0) & (column < self.columns) & (row >= 0) & (row < self.rows)
        cell = ((point_sample * self.rows + row) * self.columns + column)[inside]
        age, xy = points[inside, 4:5], points[inside, :2]
        moments = torch.cat([torch.ones_like(age), age, age * age, xy, xy * age], 1)
        maps = points.new_zeros(batch_size * self.rows * self.columns, 7).index_add(0, cell, moments)
        maps = maps.view(batch_size, self.rows, self.columns, 7).permute(0, 3, 1, 2)
        side = 2 * round(SQUARE_M / self.cell_m / 2) + 1
        count, t, tt, x, xt = F.avg_pool2d(maps, side, 1, side // 2, divisor_override=1).split([1, 1, 1, 2, 2], 1)
        count = count.clamp(min=1)
        slope = (xt - x * t / count) / (tt - t * t / count + DAMPING_S2)
        return F.avg_pool2d((-slope).clamp(-MOST_M_S, MOST_M_S), self.parts)
