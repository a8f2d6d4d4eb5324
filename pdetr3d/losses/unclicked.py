"""Finds cells that may show an object that nobody clicked, so that the student's loss does not use them as background.

These are the cells without a click nearby at which the student's moving average is confident
(``student.unclicked=ignore``): people miss objects, and the loss would teach the student to miss them, too.
Legend: B samples, K clicks (padded), H rows (y), W columns (x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pdetr3d.batch import Batch
from pdetr3d.config import Config


class Unclicked:
    """``(moving average of the student, batch) -> batch`` with ``Batch.unclicked``.

    Args:
        config: threshold and radius. heatmaps: (student, batch) -> logits (B, T, H, W) of each task.

    Attributes:
        share: scalar in [0, 1], the share of such cells among all classes' cells of the last batch's samples that are
            not box-labeled.
    """

    def __init__(self, config: Config, heatmaps: Callable[[nn.Module, Batch], list[Tensor]]) -> None:
        self.config, self.heatmaps = config, heatmaps
        self.share: Tensor = torch.zeros(())

    @torch.no_grad()
    def __call__(self, average: nn.Module, batch: Batch) -> Batch:
        student = self.config.student
        logits = torch.cat([each.float() for each in self.heatmaps(average, batch)], 1)
        order = torch.tensor([label for task in self.config.tasks for label in task], device=logits.device)
        score = torch.zeros_like(logits).index_copy(1, order, logits.sigmoid())
        cells = (score >= student.unclicked_threshold) & self.far_from_clicks(batch, score.shape[-2:])[:, None]
        cells &= ~batch.box_labeled[:, None, None, None]
        places = cells[0].numel() * (~batch.box_labeled).sum()
        self.share = cells.sum() / places.clamp(min=1)
        return replace(batch, unclicked=cells)

    def far_from_clicks(self, batch: Batch, shape: tuple[int, ...]) -> Tensor:
        """(B, H, W) bool: cells without a click of any class within ``student.unclicked_radius_m`` of their center."""
        low, cell = self.config.model.range_m, self.config.student_cell_m
        y, x = (
            low[axis] + (torch.arange(n).to(batch.click) + 0.5) * cell for axis, n in ((1, shape[0]), (0, shape[1]))
        )
        center = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2)
        near = torch.cdist(center.expand(len(batch), -1, -1), batch.click[..., :2].contiguous())  # (B, H * W, K)
        near = (near <= self.config.student.unclicked_radius_m) & batch.click_valid[:, None]
        return ~near.any(-1).view(len(batch), *shape)
