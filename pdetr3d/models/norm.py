"""Normalization layers by the config key ``model.norm``: batch | sync | group | frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

# SECOND uses eps 1e-3 and momentum 0.01 (method.md 2.2). In a run of a few hundred steps (quickstart), a momentum of
# 0.01 would leave the running statistics near their start; 0.05 suits short and long runs.
EPS, MOMENTUM = 1e-3, 0.05


class FrozenBatchNorm1d(nn.BatchNorm1d):
    """Batch norm that always uses its stored statistics (loaded with a checkpoint); scale and shift still train."""

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """As ``FrozenBatchNorm1d``, for (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def norm1d(kind: str, channels: int) -> nn.Module:
    """Norm over (P, C). For ``group`` it is a layer norm: each point is normalized over its channels."""
    if kind == "group":
        return nn.LayerNorm(channels)
    if kind == "frozen":
        return FrozenBatchNorm1d(channels, eps=EPS)
    return (nn.SyncBatchNorm if kind == "sync" else nn.BatchNorm1d)(channels, eps=EPS, momentum=MOMENTUM)


def norm2d(kind: str, channels: int) -> nn.Module:
    """Norm over (B, C, H, W)."""
    if kind == "group":
        groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and channels // g >= min(channels, 4))
        return nn.GroupNorm(groups, channels)
    if kind == "frozen":
        return FrozenBatchNorm2d(channels, eps=EPS)
    return (nn.SyncBatchNorm if kind == "sync" else nn.BatchNorm2d)(channels, eps=EPS, momentum=MOMENTUM)


@contextmanager
def statistics_held(module: nn.Module) -> Iterator[None]:
    """A context in which batch norms normalize by the batch, as in training, but keep their running statistics."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
