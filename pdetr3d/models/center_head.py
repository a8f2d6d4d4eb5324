"""CenterPoint's head: per task a class heatmap and box regression at object centers (method.md 5.1).

Regression is computed only at the cells where it is used: at objects in training, at the heatmap's peaks in inference.
The values are those of dense convolutions, except that batch statistics are taken over these cells only.
Legend: B samples, C channels, H rows (y), W columns (x), T classes of one task, N cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.batch import Cells
from pdetr3d.geometry.center_code import CODE
from pdetr3d.models.bev_backbone import conv_block
from pdetr3d.models.norm import norm2d

HEATMAP_PRIOR = -2.19  # the output's initial bias: sigmoid(-2.19) = 0.1


class Regression(nn.Module):
    """One branch (3x3 conv, norm, ReLU, 3x3 conv) per entry of CODE: ``forward(shared, cells) -> (N, 12)``.

    The first convolutions of all branches are computed as one wide convolution, which needs fewer GPU kernels.
    """

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.channels = channels
        self.hidden = nn.Conv2d(channels, channels * len(CODE), 3, bias=False)
        self.norm = norm2d(norm, channels * len(CODE))
        self.outputs = nn.ModuleDict({name: nn.Conv2d(channels, n, 3) for name, n in CODE.items()})

    def forward(self, shared: Tensor, cells: Cells) -> Tensor:
        patch = gather_patches(shared, cells, reach=2)  # (N, C, 5, 5)
        hidden = self.hidden(patch)
        if not self.training or len(hidden) > 0:
            hidden = self.norm(hidden)
        else:  # a norm cannot take statistics of no rows; this keeps its parameters in the graph for DDP
            hidden = hidden + 0 * torch.stack([p.sum() for p in self.norm.parameters()]).sum()
        # Beyond the map's edge the dense second convolution sees zeros instead of outputs of the first one.
        inside = gather_patches(shared.new_ones(shared.shape[0], 1, *shared.shape[2:]), cells, reach=1)
        hidden = torch.relu(hidden) * inside
        parts = hidden.split(self.channels, 1)
        codes = [conv(part) for conv, part in zip(self.outputs.values(), parts, strict=True)]
        return torch.cat(codes, 1).flatten(1)


def gather_patches(maps: Tensor, cells: Cells, reach: int) -> Tensor:
    """(B, C, H, W) -> (N, C, 2 reach + 1, 2 reach + 1) around N cells, zero outside."""
    padded = F.pad(maps, (reach, reach, reach, reach))
    step = torch.arange(2 * reach + 1, device=maps.device)
    row = (cells.row[:, None] + step)[:, :, None]
    column = (cells.column[:, None] + step)[:, None, :]
    return padded.permute(0, 2, 3, 1)[cells.sample[:, None, None], row, column].permute(0, 3, 1, 2)


class CenterHead(nn.Module):
    """``forward(features (B, C, H, W))`` -> shared features and one heatmap (B, T, H, W) of logits per task."""

    def __init__(self, inputs: int, channels: int, tasks: tuple[tuple[int, ...], ...], norm: str) -> None:
        super().__init__()
        self.shared = conv_block(inputs, channels, 1, norm)
        self.heatmaps = nn.ModuleList()
        for task in tasks:
            output = nn.Conv2d(channels, len(task), 3, padding=1)
            nn.init.constant_(output.bias, HEATMAP_PRIOR)  # type: ignore[arg-type]  # typed as optional
            self.heatmaps.append(nn.Sequential(conv_block(channels, channels, 1, norm), output))
        self.regressions = nn.ModuleList(Regression(channels, norm) for _ in tasks)

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        shared = self.shared(features)
        return shared, [heatmap(shared) for heatmap in self.heatmaps]


def class_peaks(heatmap: Tensor) -> Tensor:
    """Logits (B, T, H, W) -> scores (B, T, H, W), zero except at 3x3 maxima of each class."""
    score = heatmap.float().sigmoid()
    return torch.where(score == F.max_pool2d(score, 3, 1, 1), score, 0)


def peaks(heatmap: Tensor, threshold: float, most: int) -> Cells:
    """Cells where any class is a 3x3 maximum with a score above ``threshold``: the best ``most`` of each sample."""
    score = class_peaks(heatmap).amax(1)  # (B, H, W)
    best, index = score.flatten(1).topk(min(most, score[0].numel()))
    sample, rank = torch.nonzero(best > threshold, as_tuple=True)
    flat = index[sample, rank]
    return Cells(sample, flat // heatmap.shape[-1], flat % heatmap.shape[-1])
