"""Sparse 3D convolution: submanifold (Graham et al., 2018) and strided.

Two engines compute the same sums: gather-GEMM-scatter in plain PyTorch on any device, and mmcv's compiled kernels,
which are used on CUDA if they exist. Both use weights in mmcv's layout, so that checkpoints fit both.

Legend: N active cells, M active cells of the output, C channels, T = kz * ky * kx taps, B samples, D x H x W cells
along z, y, x.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Kernel:
    """Geometry of a convolution along z, y, x. With ``submanifold`` the output has the input's active cells."""

    size: Triple = (3, 3, 3)
    stride: Triple = (1, 1, 1)
    padding: Triple = (1, 1, 1)
    submanifold: bool = True

    def output_shape(self, shape: Triple) -> Triple:
        """(D, H, W) of the output, as in a dense convolution."""
        d, h, w = (
            (n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape, self.size, self.stride, self.padding, strict=True)
        )
        return d, h, w


SUBMANIFOLD = Kernel()


@dataclass(frozen=True)
class SparseTensor:
    """Features at the active cells of a grid; zero elsewhere.

    Attributes:
        features: (N, C) float.
        cells: (N, 4) int64 (sample, z, y, x), without duplicates, in lexicographic order.
        shape: (D, H, W). batch_size: B.
    """

    features: Tensor
    cells: Tensor
    shape: Triple
    batch_size: int

    def dense(self) -> Tensor:
        """The dense tensor (B, C, D, H, W)."""
        d, h, w = self.shape
        rows = self.features.new_zeros(self.batch_size * d * h * w, self.features.shape[1])
        rows = rows.index_copy(0, flat_index(self.cells, self.shape), self.features)
        return rows.view(self.batch_size, d, h, w, -1).permute(0, 4, 1, 2, 3)


def flat_index(cells: Tensor, shape: Triple) -> Tensor:
    """(N, 4) cells -> (N,) int64 ((sample * D + z) * H + y) * W + x."""
    sample, z, y, x = cells.unbind(1)
    return ((sample * shape[0] + z) * shape[1] + y) * shape[2] + x


def cells_of(index: Tensor, shape: Triple) -> Tensor:
    """Inverse of ``flat_index``."""
    rest, x = index // shape[2], index % shape[2]
    rest, y = rest // shape[1], rest % shape[1]
    return torch.stack([rest // shape[0], rest % shape[0], y, x], 1)


class Rules(Protocol):
    """Pairs of input and output cells per tap of a convolution. Convolutions on the same cells share them."""

    cells: Tensor  # (M, 4) of the output
    shape: Triple  # of the output

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """(N, C_in) features, (kz, ky, kx, C_in, C_out) weight, both float32 -> (M, C_out)."""


def make_rules(inputs: SparseTensor, kernel: Kernel) -> Rules:
    """Make the rules of a convolution, and thereby choose the engine."""
    if inputs.cells.is_cuda and len(inputs.cells) > 0 and compiled_ops() is not None:
        return MmcvRules(inputs, kernel)
    return TorchRules(inputs, kernel)


class TorchRules:
    """Rules as row numbers per tap: tap t adds input row ``pairs[t][0][i]`` to output row ``pairs[t][1][i]``."""

    def __init__(self, inputs: SparseTensor, kernel: Kernel) -> None:
        self.shape = kernel.output_shape(inputs.shape)
        self.pairs: list[tuple[Tensor, Tensor]] = []
        if kernel.submanifold:
            self.cells = inputs.cells
            self._pair_neighbors(inputs, kernel)
        else:
            self._pair_and_activate(inputs, kernel)

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        return GatherGemmScatter.apply(features, weight.flatten(0, 2), self)

    def _pair_neighbors(self, inputs: SparseTensor, kernel: Kernel) -> None:
        """Pair active cells. Opposite taps have swapped pairs, so only half of the taps are searched."""
        index, last = flat_index(inputs.cells, inputs.shape), len(inputs.cells) - 1
        taps = list(_targets(inputs.cells, kernel, self.shape, most=math.prod(kernel.size) // 2))
        for source, target_index in taps:
            at = torch.searchsorted(index, target_index).clamp(max=last)
            found = index[at] == target_index
            self.pairs.append((source[found], at[found]))
        itself = torch.arange(len(index), device=index.device)
        self.pairs += [(itself, itself), *((target, source) for source, target in reversed(self.pairs))]

    def _pair_and_activate(self, inputs: SparseTensor, kernel: Kernel) -> None:
        """Pair cells of a strided convolution: every output cell that a tap reaches becomes active."""
        sources, targets = zip(*_targets(inputs.cells, kernel, self.shape, math.prod(kernel.size)), strict=True)
        index, row = torch.unique(torch.cat(targets), return_inverse=True)
        self.cells = cells_of(index, self.shape)
        self.pairs = list(zip(sources, row.split([len(target) for target in targets]), strict=True))


def _targets(cells: Tensor, kernel: Kernel, shape: Triple, most: int) -> list[tuple[Tensor, Tensor]]:
    """For each of the first ``most`` taps: the input rows that reach a cell of the output grid, and its flat index."""
    # Along an axis, output o and a tap read input n = stride * o - padding + tap.
    reach: list[list[tuple[Tensor, Tensor]]] = []
    for axis in range(3):
        size, stride, padding = kernel.size[axis], kernel.stride[axis], kernel.padding[axis]
        shifted = [cells[:, axis + 1] + padding - tap for tap in range(size)]
        outputs = [s.div(stride, rounding_mode="floor") for s in shifted]
        reach.append(
            [(o, (s % stride == 0) & (o >= 0) & (o < shape[axis])) for s, o in zip(shifted, outputs, strict=True)]
        )
    results = []
    for (z, z_ok), (y, y_ok), (x, x_ok) in itertools.islice(itertools.product(*reach), most):
        source = torch.nonzero(z_ok & y_ok & x_ok)[:, 0]
        target = torch.stack([cells[:, 0], z, y, x], 1)[source]
        results.append((source, flat_index(target, shape)))
    return results


class GatherGemmScatter(torch.autograd.Function):
    """``(features (N, C_in), weight (T, C_in, C_out), rules) -> (M, C_out)``.

    The backward pass gathers again, because keeping the gathered rows of all taps would take T times the memory.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, rules: TorchRules) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        output = features.new_zeros(len(rules.cells), weight.shape[2])
        for tap, (source, target) in zip(weight, rules.pairs, strict=True):
            output.index_add_(0, target, features.index_select(0, source) @ tap)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        to_features = torch.zeros_like(features) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for tap, (source, target) in enumerate(ctx.rules.pairs):
            arriving = gradient.index_select(0, target)
            if to_features is not None:
                to_features.index_add_(0, source, arriving @ weight[tap].T)
            if to_weight is not None:
                torch.mm(features.index_select(0, source).T, arriving, out=to_weight[tap])
        return to_features, to_weight, None


@functools.cache
def compiled_ops() -> tuple[ModuleType, ModuleType] | None:
    """mmcv's sparse operators (rules, convolutions), or None if mmcv was installed without compiled ops."""
    try:
        from mmcv.ops import sparse_functional, sparse_ops
    except ImportError:
        return None
    return sparse_ops, sparse_functional


class MmcvRules:
    """Rules and sums by the kernels of mmcv's SubMConv3d and SparseConv3d (CUDA, float32)."""

    def __init__(self, inputs: SparseTensor, kernel: Kernel) -> None:
        ops = compiled_ops()
        assert ops is not None
        rules, functional = ops
        geometry = [list(kernel.size), list(kernel.stride), list(kernel.padding), [1, 1, 1]]
        cells, self.pairs, self.counts = rules.get_indice_pairs(
            inputs.cells.int().contiguous(), inputs.batch_size, list(inputs.shape), *geometry, subm=kernel.submanifold
        )
        self.function = functional.indice_subm_conv if kernel.submanifold else functional.indice_conv
        self.shape, self.cells = kernel.output_shape(inputs.shape), cells.long()

    def convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        return self.function(features, weight, self.pairs, self.counts, len(self.cells))
