"""CenterPoint's head: per task a class heatmap and box regression at object centers (method.md 5.1).

Legend: B samples, C channels, H rows (y), W columns (x), T classes of one task.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdetr3d.batch import REGRESSION, TaskMaps
from pdetr3d.models.bev_backbone import conv_block

HEATMAP_PRIOR = -2.19  # bias: sigmoid(-2.19) = 0.1


class TaskHead(nn.Module):
    """One task: heatmap and the five regression branches, each conv-norm-ReLU-conv of its own.

    The branches' first convolutions are computed as one wide convolution: the same function, fewer and larger kernels.
    """

    def __init__(self, channels: int, classes: int, norm: str) -> None:
        super().__init__()
        outputs = {"heatmap": classes, **REGRESSION}
        self.channels = channels
        self.hidden = conv_block(channels, channels * len(outputs), 1, norm)
        self.outputs = nn.ModuleDict({name: nn.Conv2d(channels, n, 3, padding=1) for name, n in outputs.items()})
        nn.init.constant_(self.outputs["heatmap"].bias, HEATMAP_PRIOR)  # type: ignore[arg-type]

    def forward(self, shared: Tensor) -> TaskMaps:
        hidden = self.hidden(shared).split(self.channels, 1)
        maps = {name: conv(h) for (name, conv), h in zip(self.outputs.items(), hidden, strict=True)}
        return TaskMaps(maps["heatmap"], torch.cat([maps[name] for name in REGRESSION], 1))


class CenterHead(nn.Module):
    """``forward(features (B, C, H, W)) -> list[TaskMaps]``, one entry per task."""

    def __init__(self, inputs: int, channels: int, tasks: tuple[tuple[int, ...], ...], norm: str) -> None:
        super().__init__()
        self.shared = conv_block(inputs, channels, 1, norm)
        self.tasks = nn.ModuleList(TaskHead(channels, len(task), norm) for task in tasks)

    def forward(self, features: Tensor) -> list[TaskMaps]:
        shared = self.shared(features)
        return [task(shared) for task in self.tasks]
