"""Multi-level deformable sampling: by mmcv's compiled CUDA kernel if there is one, else in plain PyTorch.

Legend: B maps, C channels, M heads, Q queries, L levels, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_sample(values: Sequence[Tensor], location: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of bilinear samples per head, as in multi-scale deformable attention (Deformable DETR, eq. 3).

    Args:
        values: L maps (B, C, H_l, W_l); C is split into M heads of consecutive channels.
        location: (B, Q, M, L, S, 2) x, y in [0, 1] of the map; samples outside are zero.
        weight: (B, Q, M, L, S).

    Returns:
        (B, Q, C), heads concatenated.
    """
    kernel = cuda_kernel() if location.is_cuda and location.numel() else None
    return _twin(values, location, weight) if kernel is None else by_kernel(kernel, values, location, weight)


@cache
def cuda_kernel() -> Any:
    """mmcv's ``MultiScaleDeformableAttnFunction``, or None without compiled ops. It has no kernel for CPUs."""
    try:
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    except ImportError:
        return None
    return MultiScaleDeformableAttnFunction


def by_kernel(kernel: Any, values: Sequence[Tensor], location: Tensor, weight: Tensor) -> Tensor:
    """``deformable_sample`` by mmcv's ``kernel``, which ``cuda_kernel`` returns."""
    b, _, m = location.shape[:3]
    # The kernel does not support bfloat16, so under autocast it samples in float32, which takes more memory.
    rows = [value.float().view(b, m, value.shape[1] // m, -1).permute(0, 3, 1, 2) for value in values]
    shapes = torch.tensor([value.shape[-2:] for value in values], device=location.device)
    first = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    value = torch.cat(rows, 1).contiguous()
    # The last argument is the number of maps per launch; it must divide the number of maps.
    result = kernel.apply(value, shapes, first, location.float().contiguous(), weight.float().contiguous(), b)
    return result.to(values[0].dtype)


def _twin(values: Sequence[Tensor], location: Tensor, weight: Tensor) -> Tensor:
    b, q, m, _, s, _ = location.shape
    grid = (2 * location - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B*M, Q, S, 2)
    scale = weight.permute(3, 0, 2, 1, 4).flatten(1, 2)  # (L, B*M, Q, S)
    total: Tensor | None = None
    for value, level_grid, level_scale in zip(values, grid, scale, strict=True):
        per_head = value.reshape(b * m, value.shape[1] // m, *value.shape[-2:])
        sampled = F.grid_sample(per_head, level_grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        part = (sampled * level_scale[:, None]).sum(-1)
        total = part if total is None else total + part
    assert total is not None
    return total.view(b, m, values[0].shape[1] // m, q).flatten(1, 2).transpose(1, 2)


def grid_offsets(n: int) -> Tensor:
    """(n * n, 2) x, y of the cell centers of an n x n grid over the unit square that is centered at 0."""
    step = (torch.arange(n) + 0.5) / n - 0.5
    y, x = torch.meshgrid(step, step, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)
