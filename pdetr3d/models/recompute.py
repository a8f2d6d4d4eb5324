"""Less memory, less time, the same numbers: activation checkpointing and torch.compile of the dense parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pdetr3d.models.norm import statistics_held

# What has static shapes: everything else (points, clicks, objects) differs in size from step to step.
DENSE = ("backbone", "fpn", "neck", "images.backbone", "images.fpn", "head.shared", "head.heatmaps")


def run_stage(stage: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """``stage(x)``; with ``recompute`` its activations are dropped and computed again in the backward pass."""
    if not (recompute and stage.training and torch.is_grad_enabled()):
        return stage(x)
    return _recomputed(stage, x)


def _recomputed(stage: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(stage, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(stage)))


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms normalize as before but count no batch: the recomputation is not a second one."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    counts = [norm.num_batches_tracked for norm in norms]
    with statistics_held(module):
        for norm in norms:
            norm.num_batches_tracked = None
        try:
            yield
        finally:
            for norm, count in zip(norms, counts, strict=True):
                norm.num_batches_tracked = count


def compile_dense(model: nn.Module, backend: str = "inductor") -> list[str]:
    """torch.compile the parts of DENSE in place (names in the state dict stay); returns the names of those parts.

    Stages that are computed again (``run_stage``) run as they are: less memory or less time, not both, in a backbone.
    """
    global _recomputed
    # Dynamo traces no contexts of ours: a compiled model leaves its graph for such a stage. Done here, since the
    # decorator would import torch._dynamo (a second) into every process that holds a model.
    _recomputed = torch.compiler.disable(_recomputed)
    done: list[str] = []
    for name, module in model.named_modules():
        if name in DENSE or name.rpartition(".")[0] in DENSE and isinstance(module, nn.Sequential):
            if isinstance(module, nn.ModuleList):
                continue  # has no forward: its members are compiled
            if not any(name.startswith(f"{parent}.") for parent in done):
                module.compile(backend=backend)
                done.append(name)
    return done
