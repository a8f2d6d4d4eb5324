"""BEV feature extraction: SECOND backbone, FPN (teacher), SECONDFPN (student).

Legend: B samples, C channels, H rows (y), W columns (x).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.config import ModelConfig
from pdetr3d.models.norm import norm2d
from pdetr3d.models.recompute import run_stage


def conv_block(inputs: int, outputs: int, stride: int, norm: str) -> nn.Sequential:
    """3x3 convolution (no bias), norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, norm2d(norm, outputs), nn.ReLU(inplace=True))


class Second(nn.Module):
    """SECOND's 2D backbone (method.md 2.3): per stage one strided block and ``layers`` more; returns all outputs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.recompute = config.checkpoint_activations
        self.stages = nn.ModuleList()
        inputs = config.bev_channels
        for channels, layers, stride in zip(
            config.backbone_channels, config.backbone_layers, config.backbone_strides, strict=True
        ):
            blocks = [conv_block(inputs, channels, stride, config.norm)]
            blocks += [conv_block(channels, channels, 1, config.norm) for _ in range(layers)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = channels

    def forward(self, bev: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            bev = run_stage(stage, bev, self.recompute)
            outputs.append(bev)
        return outputs


class FPN(nn.Module):
    """Feature pyramid: lateral 1x1 convolutions, top-down nearest addition, 3x3 convolutions.

    Levels beyond the inputs are made by subsampling (method.md 2.2), or with ``convolve`` by 3x3 convolutions of
    stride 2 (method.md 2.4).
    """

    def __init__(self, inputs: Sequence[int], channels: int, levels: int, norm: str, *, convolve: bool = False) -> None:
        super().__init__()
        self.levels = levels
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), norm2d(norm, channels)) for c in inputs
        )
        used = min(levels, len(inputs))
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(used))
        more = levels - used if convolve else 0
        self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(more))

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the stages, finest first -> ``levels`` maps (B, channels, h, w), finest first."""
        maps = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for i in range(len(maps) - 2, -1, -1):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        outputs = [output(m) for output, m in zip(self.output, maps, strict=False)]
        for conv in self.extra:
            outputs.append(conv(outputs[-1]))
        while len(outputs) < self.levels:
            outputs.append(outputs[-1][..., ::2, ::2])
        return outputs


class SecondFPN(nn.Module):
    """SECONDFPN: resamples each stage to one grid and concatenates them (method.md 5.1).

    A stride >= 1 enlarges the stage by a transposed convolution; a stride < 1 shrinks it by a strided convolution.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], strides: Sequence[float], norm: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for i, o, stride in zip(inputs, outputs, strides, strict=True):
            resample: nn.Module
            if stride >= 1:
                resample = nn.ConvTranspose2d(i, o, int(stride), int(stride), bias=False)
            else:
                resample = nn.Conv2d(i, o, round(1 / stride), round(1 / stride), bias=False)
            self.blocks.append(nn.Sequential(resample, norm2d(norm, o), nn.ReLU(inplace=True)))
        self.channels = sum(outputs)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        return torch.cat([block(stage) for block, stage in zip(self.blocks, stages, strict=True)], 1)
