"""CenterPoint's targets and losses (method.md 5.1), normalized by the object count over all ranks.

Legend: B samples, N boxes (padded), T classes of a task, H rows (y), W columns (x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pdetr3d.batch import REGRESSION_CHANNELS, Batch, RankMean, TaskMaps
from pdetr3d.config import Config

MIN_OVERLAP, MIN_RADIUS = 0.1, 2  # of the heatmap Gaussian, in cells (method.md 5.1)


def gaussian_radius(length: Tensor, width: Tensor, overlap: float = MIN_OVERLAP) -> Tensor:
    """CornerNet's radius [cells], real-valued: the largest corner shift that keeps IoU >= overlap in all cases."""
    total, area = length + width, length * width
    inside = (total - torch.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    outside = (2 * total - torch.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 8
    mixed = (-2 * overlap * total + torch.sqrt((2 * overlap * total) ** 2 + 16 * overlap * (1 - overlap) * area)) / (
        8 * overlap
    )
    return torch.minimum(torch.minimum(inside, outside), mixed)


def gaussian_maps(center: Tensor, sigma: Tensor, radius: Tensor, slot: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Draw N Gaussians, max-merged, into ``shape`` = (slots, H, W).

    Args:
        center: (N, 2) int64 (row, column); sigma, radius: (N,) [cells], zero beyond ``radius``; slot: (N,) which map.
    """
    maps = sigma.new_zeros(shape)
    if not len(center):
        return maps
    reach = int(radius.max().ceil())
    step = torch.arange(-reach, reach + 1, device=sigma.device)
    row, column = torch.meshgrid(step, step, indexing="ij")
    squared = (row**2 + column**2).to(sigma.dtype)
    value = torch.exp(-squared / (2 * sigma[:, None, None] ** 2))
    at_row, at_column = center[:, 0, None, None] + row, center[:, 1, None, None] + column
    keep = (row.abs() <= radius[:, None, None]) & (column.abs() <= radius[:, None, None])
    keep &= (at_row >= 0) & (at_row < shape[1]) & (at_column >= 0) & (at_column < shape[2])
    flat = ((slot[:, None, None] * shape[1] + at_row) * shape[2] + at_column)[keep]
    return maps.view(-1).scatter_reduce(0, flat, value[keep], "amax").view(shape)


def heatmap_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Gaussian focal loss (CornerNet; alpha 2, gamma 4), summed: peaks (target = 1) are positives."""
    log_p, log_not_p = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    p = logits.sigmoid()
    positive = target == 1
    loss = torch.where(positive, -((1 - p) ** 2) * log_p, -(p**2) * (1 - target) ** 4 * log_not_p)
    return loss.sum()


class CenterCriterion:
    """``(tasks, batch) -> {"heatmap": ..., "box": ...}``: weighted loss terms.

    Args:
        config: range, tasks and weights of the student.
        rank_mean: mean of a scalar over ranks.
    """

    def __init__(self, config: Config, rank_mean: RankMean) -> None:
        self.config, self.rank_mean = config, rank_mean
        self.cell_m, self.low = config.student_cell_m, config.model.range_m
        self.task_of, self.slot_of = torch.zeros(10, dtype=torch.long), torch.zeros(10, dtype=torch.long)
        for t, classes in enumerate(config.student.tasks):
            for s, c in enumerate(classes):
                self.task_of[c], self.slot_of[c] = t, s

    def __call__(self, tasks: list[TaskMaps], batch: Batch) -> dict[str, Tensor]:
        rows, columns = tasks[0].heatmap.shape[-2:]
        sample, index = self._objects_on_grid(batch, rows, columns)
        box, label = batch.box[sample, index], batch.box_label[sample, index]
        velocity = batch.velocity[sample, index]
        cell = (box[:, :2] - box.new_tensor(self.low[:2])) / self.cell_m
        column, row = cell[:, 0].long(), cell[:, 1].long()
        code = self.encode(box, velocity, cell)
        radius = gaussian_radius(box[:, 3] / self.cell_m, box[:, 4] / self.cell_m).floor().clamp(min=MIN_RADIUS)
        heat_sum, box_sum = batch.box.new_zeros(()), batch.box.new_zeros(())
        for t, maps in enumerate(tasks):
            mine = self.task_of.to(label.device)[label] == t
            classes = maps.heatmap.shape[1]
            slot = sample[mine] * classes + self.slot_of.to(label.device)[label[mine]]
            center, r = torch.stack([row[mine], column[mine]], 1), radius[mine]
            target = gaussian_maps(center, (2 * r + 1) / 6, r, slot, (len(batch) * classes, rows, columns))
            heat_sum = heat_sum + heatmap_focal_loss(maps.heatmap.float(), target.view_as(maps.heatmap))
            predicted = maps.regression[sample[mine], :, row[mine], column[mine]].float()
            box_sum = box_sum + self._box_loss(predicted, code[mine])
        count = self.rank_mean(box.new_tensor(float(len(box)))).clamp(min=1)
        return {"heatmap": heat_sum / count, "box": self.config.student.box_weight * box_sum / count}

    def _objects_on_grid(self, batch: Batch, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        cell = (batch.box[..., :2] - batch.box.new_tensor(self.low[:2])) / self.cell_m
        inside = (cell >= 0).all(-1) & (cell[..., 0] < columns) & (cell[..., 1] < rows)
        sample, index = torch.nonzero(batch.box_valid & inside, as_tuple=True)
        return sample, index

    @staticmethod
    def encode(box: Tensor, velocity: Tensor, cell: Tensor) -> Tensor:
        """Boxes (N, 7), velocities (N, 2), centers in cells (N, 2) -> code (N, 10) in the order of ``REGRESSION``."""
        heading = torch.stack([box[:, 6].sin(), box[:, 6].cos()], 1)
        return torch.cat([cell - cell.floor(), box[:, 2:3], box[:, 3:6].log(), heading, velocity], 1)

    def _box_loss(self, predicted: Tensor, code: Tensor) -> Tensor:
        known = torch.isfinite(code)  # only velocity may be unknown
        weight = code.new_ones(REGRESSION_CHANNELS)
        weight[8:] = self.config.student.velocity_weight
        return ((predicted - torch.where(known, code, predicted.detach())).abs() * weight).sum()
