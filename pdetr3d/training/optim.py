"""Builds AdamW and its learning-rate schedule: linear warm-up, then a cosine to 1/1000 of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from pdetr3d.config import OptimConfig
from pdetr3d.schema import DataError

FINAL_SHARE = 1e-3  # of the peak learning rate at the last step (method.md 2.9)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW for a model, without weight decay on biases and norm scales (one-dimensional parameters).

    Each pair of learning rate and decay has a parameter group. ``set_learning_rate`` multiplies the schedule's rate by
    the group's ``factor``.

    Raises:
        DataError: as ``lr_factors``.
    """
    factors = lr_factors(model, config)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = []
    for factor in sorted({1.0, *factors.values()}, reverse=True):
        mine = [p for name, p in named if factors[name] == factor]
        for parameters, decay in (
            ([p for p in mine if p.ndim > 1], config.weight_decay),
            ([p for p in mine if p.ndim <= 1], 0.0),
        ):
            if parameters or factor == 1.0:
                group = {"params": parameters, "lr": config.lr * factor, "weight_decay": decay, "factor": factor}
                groups.append(group)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def lr_factors(model: nn.Module, config: OptimConfig) -> dict[str, float]:
    """The factor of each parameter's learning rate: that of the longest matching prefix in ``optim.lr_multipliers``.

    A prefix matches whole parts of the name between dots: "images.backbone" does not match "images.backbone2.conv".

    Returns:
        Parameter name -> factor; 1 where no prefix matches.

    Raises:
        DataError: when an entry matches no parameter, since it would have no effect (method.md 7.2, 17).
    """
    names = [name for name, _ in model.named_parameters()]
    factors = dict.fromkeys(names, 1.0)
    for prefix, factor in sorted(config.lr_multipliers, key=lambda entry: len(entry[0])):
        mine = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
        if not mine:
            parts = sorted({".".join(name.split(".")[:n]) for name in names for n in (1, 2)})
            raise DataError(
                f"lr_multipliers: {prefix!r} is the beginning of no parameter name of {type(model).__name__}; "
                f"it has {', '.join(parts[:40])}"
            )
        factors |= dict.fromkeys(mine, factor)
    return factors


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to ``rate`` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of step ``step``, 0 .. ``steps`` - 1 (method.md 2.9)."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - 1 - warmup)
    return config.lr * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * share)) / 2)
