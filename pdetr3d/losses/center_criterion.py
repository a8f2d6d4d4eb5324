"""CenterPoint's targets and losses (method.md 5.1), normalized by the object count over all ranks.

Labels have weights (``label_weights``). They are not normalized away: a label of half the weight says half as much.

Legend: B samples, N boxes (padded), T classes of a task, H rows (y), W columns (x).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pdetr3d.batch import Batch, RankMean, TaskMaps
from pdetr3d.config import Config
from pdetr3d.geometry.center_code import encode, part
from pdetr3d.schema import SOURCE_PSEUDO

MIN_OVERLAP, MIN_RADIUS = 0.1, 2  # of the heatmap Gaussian, in cells (method.md 5.1)
BOX_TERMS = ("box", "direction")
# With 0.5 a PointNet on crops of the simulated objects reversed 14 % of the vehicles' headings, with 2 10 %, and its
# axes were off by 0.15 rather than 0.12 rad (two seeds).
DIRECTION_WEIGHT = 2.0


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
    return drawn(gaussian_cells(center, sigma, radius, slot, shape), shape)


def drawn(cells: tuple[Tensor, Tensor, Tensor], shape: tuple[int, int, int]) -> Tensor:
    """The maps of ``gaussian_maps`` from the cells of ``gaussian_cells``."""
    flat, value, _ = cells
    return value.new_zeros(shape).view(-1).scatter_reduce(0, flat, value, "amax").view(shape)


def gaussian_cells(
    center: Tensor, sigma: Tensor, radius: Tensor, slot: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The M cells that N Gaussians reach (arguments as ``gaussian_maps``), one entry per Gaussian and cell.

    Returns:
        flat index (M,) int64 into the maps, value (M,), and which Gaussian (M,) int64.
    """
    if not len(center):
        return slot.long(), sigma, slot.long()
    reach = int(radius.max().ceil())
    step = torch.arange(-reach, reach + 1, device=sigma.device)
    row, column = torch.meshgrid(step, step, indexing="ij")
    squared = (row**2 + column**2).to(sigma.dtype)
    value = torch.exp(-squared / (2 * sigma[:, None, None] ** 2))
    at_row, at_column = center[:, 0, None, None] + row, center[:, 1, None, None] + column
    keep = (row.abs() <= radius[:, None, None]) & (column.abs() <= radius[:, None, None])
    keep &= (at_row >= 0) & (at_row < shape[1]) & (at_column >= 0) & (at_column < shape[2])
    flat = ((slot[:, None, None] * shape[1] + at_row) * shape[2] + at_column)[keep]
    return flat, value[keep], torch.nonzero(keep)[:, 0]


def heatmap_weights(target: Tensor, cells: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Tensor:
    """Weights of the heatmap loss's cells: ``1 + target * (w - 1)``, w that of the object whose Gaussian counts there.

    A peak counts as its label does; round it, as far as the label says that the background is none, the label's weight
    takes over from 1. So a label of weight 0 is neither an object nor, where it stands, background.

    Args:
        target: (slots, H, W) of ``gaussian_maps``. cells: of ``gaussian_cells``, N Gaussians. weight: (N,).
            Of Gaussians that are equal at a cell, the larger weight counts.
    """
    flat, value, owner = cells
    wins = value == target.view(-1)[flat]
    strongest = torch.ones_like(target).view(-1)
    strongest = strongest.scatter_reduce(0, flat[wins], weight[owner[wins]], "amax", include_self=False)
    return 1 + target * (strongest.view(target.shape) - 1)


def heatmap_focal_loss(logits: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Gaussian focal loss (CornerNet; alpha 2, gamma 4), times ``weight``, summed: peaks (target = 1) are positives."""
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = logits.sigmoid()
    positive = target == 1
    loss = torch.where(positive, -((1 - p) ** 2) * log_p, -(p**2) * (1 - target) ** 4 * log_not_p)
    return (loss * weight).sum()


class CenterCriterion:
    """``(tasks, batch) -> {"heatmap", "box", "direction"}``: weighted loss terms.

    The box term is L1 on the code but for the direction, which is learned as a choice between the two headings along
    the true axis.

    Args:
        config: range, tasks and weights of the student.
        rank_mean: mean of a scalar over ranks.
    """

    def __init__(self, config: Config, rank_mean: RankMean) -> None:
        self.config, self.rank_mean = config, rank_mean
        self.cell_m, self.low = config.student_cell_m, config.model.range_m[:2]
        self.undirected, self.round = config.classes.labels("axis", "none"), config.classes.labels("none")

    def __call__(self, tasks: list[TaskMaps], batch: Batch) -> dict[str, Tensor]:
        heat_sum, box_sums, objects, places = batch.box.new_zeros(()), batch.box.new_zeros(len(BOX_TERMS)), 0, 0
        for maps, classes in zip(tasks, self.config.tasks, strict=True):
            rows, columns = maps.heatmap.shape[-2:]
            cells, index = batch.objects(self.low, self.cell_m, (rows, columns), classes)
            box, weight = batch.box[cells.sample, index], self.label_weights(batch)[cells.sample, index]
            slot = torch.tensor(classes, device=index.device) == batch.box_label[cells.sample, index, None]
            slot = cells.sample * len(classes) + slot.long().argmax(1)
            radius = gaussian_radius(box[:, 3] / self.cell_m, box[:, 4] / self.cell_m).floor().clamp(min=MIN_RADIUS)
            center, shape = torch.stack([cells.row, cells.column], 1), (len(batch) * len(classes), rows, columns)
            gaussians = gaussian_cells(center, (2 * radius + 1) / 6, radius, slot, shape)
            target = drawn(gaussians, shape)
            weights = heatmap_weights(target, gaussians, weight).view_as(maps.heatmap)
            if batch.known is not None:
                weights = weights * batch.known[:, None]
            if batch.unclicked is not None:
                missed = batch.unclicked[:, list(classes)] & (target.view_as(maps.heatmap) == 0)
                weights = weights.masked_fill(missed, 0)
            heat_sum = heat_sum + heatmap_focal_loss(maps.heatmap.float(), target.view_as(maps.heatmap), weights)
            box_sums = box_sums + self._box_losses(maps, batch, classes)
            objects, places = objects + len(box), places + len(maps.cells.row)
        per_object, per_place = (self.rank_mean(batch.box.new_tensor(float(n))).clamp(min=1) for n in (objects, places))
        box_terms = self.config.student.box_weight * box_sums / per_place
        return {"heatmap": heat_sum / per_object, **dict(zip(BOX_TERMS, box_terms.unbind(), strict=True))}

    def label_weights(self, batch: Batch) -> Tensor:
        """(B, N) float32: ``human_weight``, or ``pseudo_weight * score ** score_power`` for pseudo labels."""
        student = self.config.student
        pseudo = student.pseudo_weight * batch.box_score**student.score_power
        return torch.where(batch.box_source == SOURCE_PSEUDO, pseudo, student.human_weight)

    def _box_losses(self, maps: TaskMaps, batch: Batch, classes: tuple[int, ...]) -> Tensor:
        """(2,) sums over the places where boxes are regressed, in the order of BOX_TERMS."""
        rows, columns = maps.heatmap.shape[-2:]
        cells, index = batch.surroundings(
            self.low, self.cell_m, (rows, columns), classes, self.config.student.regression_reach
        )
        box, velocity = batch.box[cells.sample, index], batch.velocity[cells.sample, index]
        label, corner = batch.box_label[cells.sample, index], cells.corners(self.low, self.cell_m)
        code, said = encode(box, velocity, corner, self.cell_m), maps.regression.float()
        weight = torch.ones_like(code)
        part(weight, "direction").zero_()  # not by L1
        part(weight, "velocity").fill_(self.config.student.velocity_weight)
        part(weight, "axis")[torch.isin(label, label.new_tensor(self.round))] = 0
        known = torch.isfinite(code)  # only velocity may be unknown
        error = ((said - torch.where(known, code, said.detach())).abs() * weight).sum(1)
        odds = (part(said, "direction") * part(code, "direction")).sum(1)
        undirected = torch.isin(label, label.new_tensor(self.undirected))
        turned = torch.where(undirected, 0.0, DIRECTION_WEIGHT * -F.logsigmoid(odds))
        terms = torch.stack([error, turned], 1)
        return (terms * self.label_weights(batch)[cells.sample, index, None]).sum(0)
