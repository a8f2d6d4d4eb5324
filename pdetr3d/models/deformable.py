"""Multi-level deformable sampling, plain PyTorch (any device).

Legend: B maps, C channels, M heads, Q queries, L levels, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_sample(values: Sequence[Tensor], location: Tensor, weight: Tensor) -> Tensor:
    """Weighted bilinear samples per head, as multi-scale deformable attention (Deformable DETR, equation 3).

    Args:
        values: L maps (B, C, H_l, W_l); C is split into M heads of consecutive channels.
        location: (B, Q, M, L, S, 2), (x, y) in [0, 1] of the map; outside samples are zero.
        weight: (B, Q, M, L, S).

    Returns:
        (B, Q, C), heads concatenated.
    """
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
    """(n * n, 2) regular grid of a unit square centered on 0: cell centers, so n = 1 is the center itself."""
    step = (torch.arange(n) + 0.5) / n - 0.5
    y, x = torch.meshgrid(step, step, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)
