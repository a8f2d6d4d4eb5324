"""Clicks -> queries whose reference point is the click: explicit positional initialization (method.md 2.5, corrected).

Legend: B samples, K clicks, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0


def sinusoid(value: Tensor, channels: int) -> Tensor:
    """(..., D) scalars -> (..., D * channels): sin and cos of value / TEMPERATURE^(i / channels), in halves."""
    exponent = torch.arange(0, channels, 2, device=value.device, dtype=value.dtype) / channels
    angle = value[..., None] / TEMPERATURE**exponent
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)


class ExplicitQuery(nn.Module):
    """``forward(click (B, K, 3), label (B, K)) -> content (B, K, C), position (B, K, C)``.

    Position: sinusoids of the click's normalized x, y, z and of its class's mean l, w, h (the released code encodes l
    in the place of h: method.md 7.2 no. 5), all scaled by 2 pi, through a linear layer. Content: class embedding.

    Args:
        channels: C.
        prior_size_m: (10, 3) mean l, w, h per class of the box-labeled part.
        range_m: x0, y0, z0, x1, y1, z1.
    """

    def __init__(self, channels: int, prior_size_m: Tensor, range_m: tuple[float, ...]) -> None:
        super().__init__()
        self.per_scalar = 2 * max(1, channels // 12)
        self.embedding = nn.Embedding(len(prior_size_m), channels)
        self.project = nn.Linear(6 * self.per_scalar, channels)
        self.prior_size_m: Tensor
        self.low: Tensor
        self.span: Tensor
        self.register_buffer("prior_size_m", prior_size_m.float())
        self.register_buffer("low", torch.tensor(range_m[:3]), persistent=False)
        self.register_buffer("span", torch.tensor(range_m[3:]) - torch.tensor(range_m[:3]), persistent=False)

    def forward(self, click: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        place = (click - self.low) / self.span
        # Sizes reach 12 m: a tenth keeps them within the sinusoid's first period, as the normalized position is.
        size = self.prior_size_m[label] / 10
        code = sinusoid(torch.cat([place, size], -1) * 2 * math.pi, self.per_scalar)
        return self.embedding(label), self.project(code)
