"""The student's losses: CenterPoint's targets and terms (method.md 5.1), divided by the object count over all ranks.

Each label has a weight (``label_weights``). The sums are not divided by the weights: half the weight halves the effect.

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

MIN_OVERLAP, MIN_RADIUS = 0.1, 2  # of the heatmap Gaussians: IoU, and radius in cells (method.md 5.1)
BOX_TERMS = ("box", "direction")
# A PointNet on crops of simulated objects reversed 14 % of the vehicles' headings with weight 0.5 and 10 % with weight
# 2; the mean error of its axes was 0.12 rad with 0.5 and 0.15 rad with 2 (two seeds).
DIRECTION_WEIGHT = 2.0


def gaussian_radius(length: Tensor, width: Tensor, overlap: float = MIN_OVERLAP) -> Tensor:
    """CornerNet's radius [cells], (N,) real-valued: the largest corner shift with IoU >= ``overlap`` in all cases.

    Args:
        length, width: (N,) sides of the boxes [cells].
    """
    total, area = length + width, length * width
    inside = (total - torch.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    outside = (2 * total - torch.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 8
    mixed = (-2 * overlap * total + torch.sqrt((2 * overlap * total) ** 2 + 16 * overlap * (1 - overlap) * area)) / (
        8 * overlap
    )
    return torch.minimum(torch.minimum(inside, outside), mixed)


def gaussian_maps(center: Tensor, sigma: Tensor, radius: Tensor, slot: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Draw N Gaussians into maps of ``shape`` (slots, H, W); where several overlap, the largest value counts.

    Args:
        center: (N, 2) int64 (row, column). sigma: (N,) [cells]. radius: (N,) [cells], a Gaussian is 0 beyond it. slot:
            (N,) the map of each Gaussian.
    """
    return drawn(gaussian_cells(center, sigma, radius, slot, shape), shape)


def drawn(cells: tuple[Tensor, Tensor, Tensor], shape: tuple[int, int, int]) -> Tensor:
    """The maps of ``gaussian_maps`` from the cells of ``gaussian_cells``."""
    flat, value, _ = cells
    return value.new_zeros(shape).view(-1).scatter_reduce(0, flat, value, "amax").view(shape)


def gaussian_cells(
    center: Tensor, sigma: Tensor, radius: Tensor, slot: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells that N Gaussians reach, with one entry per Gaussian and cell, M in all; arguments as ``gaussian_maps``.

    Returns:
        The flat index of the cell in the maps (M,) int64, the value (M,), and the number of the Gaussian (M,) int64.
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
    """Weights of the cells in the heatmap loss, (slots, H, W): ``1 + target * (w - 1)``.

    w is the weight of the object whose Gaussian is the largest at the cell (among equal ones, the larger weight). So
    the weight is w at a peak and goes to 1 with the distance from it. An object of weight 0 then counts neither as an
    object nor as background.

    Args:
        target: (slots, H, W) of ``gaussian_maps``. cells: of ``gaussian_cells``. weight: (N,) of the Gaussians.
    """
    flat, value, owner = cells
    wins = value == target.view(-1)[flat]
    strongest = torch.ones_like(target).view(-1)
    strongest = strongest.scatter_reduce(0, flat[wins], weight[owner[wins]], "amax", include_self=False)
    return 1 + target * (strongest.view(target.shape) - 1)


def heatmap_focal_loss(logits: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Sum of the Gaussian focal loss (CornerNet; alpha 2, gamma 4) times ``weight``; positives have target 1."""
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = logits.sigmoid()
    positive = target == 1
    loss = torch.where(positive, -((1 - p) ** 2) * log_p, -(p**2) * (1 - target) ** 4 * log_not_p)
    return (loss * weight).sum()


class CenterCriterion:
    """``(tasks, batch) -> {"heatmap", "box", "direction"}``: weighted loss terms.

    The box term is L1 on the code without its direction. The direction term is a logistic loss for choosing between the
    two headings along the true axis; its weight is 2 p - 1 with p the label's ``box_direction``, 0 if it knows neither.

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
            box_sums = box_sums + self.box_losses(maps, batch, classes)
            objects, places = objects + len(box), places + len(maps.cells.row)
        per_object, per_place = (self.rank_mean(batch.box.new_tensor(float(n))).clamp(min=1) for n in (objects, places))
        box_terms = self.config.student.box_weight * box_sums / per_place
        return {"heatmap": heat_sum / per_object, **dict(zip(BOX_TERMS, box_terms.unbind(), strict=True))}

    def label_weights(self, batch: Batch) -> Tensor:
        """(B, N) float32: ``human_weight``, or ``pseudo_weight * score ** score_power`` for pseudo labels."""
        student = self.config.student
        pseudo = student.pseudo_weight * batch.box_score**student.score_power
        return torch.where(batch.box_source == SOURCE_PSEUDO, pseudo, student.human_weight)

    def box_losses(self, maps: TaskMaps, batch: Batch, classes: tuple[int, ...]) -> Tensor:
        """(2,) sums over the cells where boxes are regressed, in the order of BOX_TERMS."""
        rows, columns = maps.heatmap.shape[-2:]
        cells, index = batch.surroundings(
            self.low, self.cell_m, (rows, columns), classes, self.config.student.regression_reach
        )
        box, velocity = batch.box[cells.sample, index], batch.velocity[cells.sample, index]
        label, corner = batch.box_label[cells.sample, index], cells.corners(self.low, self.cell_m)
        code, said = encode(box, velocity, corner, self.cell_m), maps.regression.float()
        weight = torch.ones_like(code)
        part(weight, "direction").zero_()  # it has a loss of its own
        part(weight, "velocity").fill_(self.config.student.velocity_weight)
        part(weight, "axis")[torch.isin(label, label.new_tensor(self.round))] = 0
        known = torch.isfinite(code)  # only velocity may be unknown
        error = ((said - torch.where(known, code, said.detach())).abs() * weight).sum(1)
        odds = (part(said, "direction") * part(code, "direction")).sum(1)
        undirected = torch.isin(label, label.new_tensor(self.undirected))
        turned = torch.where(undirected, 0.0, DIRECTION_WEIGHT * -F.logsigmoid(odds))
        turned = turned * (2 * batch.box_direction[cells.sample, index] - 1)
        terms = torch.stack([error, turned], 1)
        return (terms * self.label_weights(batch)[cells.sample, index, None]).sum(0)
