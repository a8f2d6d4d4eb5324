"""AdamW and its schedule: linear warm-up, then cosine to 1/1000 of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from pdetr3d.config import OptimConfig
from pdetr3d.schema import DataError

FINAL_SHARE = 1e-3  # of the peak learning rate at the last step (method.md 2.9)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases and norm scales (one-dimensional parameters).

    A group per learning rate and decay; its ``factor`` is what ``set_learning_rate`` multiplies the schedule with.
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
    """Parameter name -> factor of its learning rate: that of the longest prefix in ``optim.lr_multipliers``, else 1.

    A prefix ends at a dot of the name, or is the name: "images.backbone" does not mean "images.backbone2.conv".

    Raises:
        DataError: when an entry matches no parameter (method.md 7.2, 17: it would do nothing, silently).
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
    """Give every group ``rate`` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of step 0..steps-1."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - 1 - warmup)
    return config.lr * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * share)) / 2)
