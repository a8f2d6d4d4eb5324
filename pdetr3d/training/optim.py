"""AdamW and its schedule: linear warm-up, then cosine to 1/1000 of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from pdetr3d.config import OptimConfig

FINAL_SHARE = 1e-3  # of the peak learning rate at the last step (method.md 2.9)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases and norm scales (one-dimensional parameters)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of step 0..steps-1."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - 1 - warmup)
    return config.lr * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * share)) / 2)
