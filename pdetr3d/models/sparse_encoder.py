"""SECOND's sparse encoder (Yan et al., 2018; method.md 2.2) with residual blocks: voxels -> BEV map.

Legend: N active cells, C channels, B samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.models.norm import norm1d
from pdetr3d.models.sparse_conv import SUBMANIFOLD, Kernel, Rules, SparseTensor, make_rules


class SparseConv(nn.Module):
    """A convolution without bias and a norm: ``forward(features (N, C_in), rules) -> (M, C_out)``."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, norm: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(*kernel.size, inputs, outputs))  # mmcv's layout
        bound = 1 / math.sqrt(math.prod(kernel.size) * inputs)  # the initialization of nn.Conv3d
        nn.init.uniform_(self.weight, -bound, bound)
        self.norm = norm1d(norm, outputs)

    def forward(self, features: Tensor, rules: Rules) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # no engine supports bfloat16
            return normalize(self.norm, rules.convolve(features.float(), self.weight.float()))


def normalize(norm: nn.Module, rows: Tensor) -> Tensor:
    """Apply a norm to (N, C). Fewer than two rows have no batch statistics, so the running statistics are used."""
    if isinstance(norm, nn.BatchNorm1d) and norm.training and len(rows) < 2:
        return F.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    return norm(rows)


class ResidualBlock(nn.Module):
    """Two submanifold convolutions with a shortcut: ``forward(features (N, C), rules) -> (N, C)``."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.first = SparseConv(channels, channels, SUBMANIFOLD, norm)
        self.second = SparseConv(channels, channels, SUBMANIFOLD, norm)

    def forward(self, features: Tensor, rules: Rules) -> Tensor:
        hidden = torch.relu(self.first(features, rules))
        return torch.relu(features + self.second(hidden, rules))


class SparseEncoder(nn.Module):
    """``forward(SparseTensor (N, C_in)) -> (B, C * D', H', W')``: voxels -> BEV map.

    The encoder has one submanifold convolution, two residual blocks per stage, a convolution of stride 2 between
    stages, and at the end one of stride 2 along z only. The last convolution between stages does not pad z, so that 41
    cells become 21, 11, 5, and 2 at the end. The z slices become channels: index c * D' + z.

    Args:
        inputs: C_in.
        channels: of each stage.
        norm: ``model.norm``.
    """

    def __init__(self, inputs: int, channels: Sequence[int], norm: str) -> None:
        super().__init__()
        self.input = SparseConv(inputs, channels[0], SUBMANIFOLD, norm)
        self.blocks = nn.ModuleList(nn.ModuleList(ResidualBlock(c, norm) for _ in range(2)) for c in channels)
        self.downs = nn.ModuleList()
        for stage, (c, following) in enumerate(itertools.pairwise(channels)):
            z_padding = 0 if stage == len(channels) - 2 else 1
            self.downs.append(SparseConv(c, following, Kernel((3, 3, 3), (2, 2, 2), (z_padding, 1, 1), False), norm))
        self.output = SparseConv(channels[-1], channels[-1], Kernel((3, 1, 1), (2, 1, 1), (0, 0, 0), False), norm)

    def forward(self, voxels: SparseTensor) -> Tensor:
        rules = make_rules(voxels, SUBMANIFOLD)
        features = torch.relu(self.input(voxels.features, rules))
        for stage, blocks in enumerate(self.blocks):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                features = block(features, rules)
            last = stage == len(self.blocks) - 1
            voxels = SparseTensor(features, voxels.cells, voxels.shape, voxels.batch_size)
            voxels = _strided(self.output if last else self.downs[stage], voxels)
            if not last:
                rules, features = make_rules(voxels, SUBMANIFOLD), voxels.features
        return voxels.dense().flatten(1, 2)


def _strided(layer: nn.Module, inputs: SparseTensor) -> SparseTensor:
    """Apply a strided convolution with norm, and ReLU."""
    assert isinstance(layer, SparseConv)
    rules = make_rules(inputs, layer.kernel)
    return SparseTensor(torch.relu(layer(inputs.features, rules)), rules.cells, rules.shape, inputs.batch_size)
