"""Activation checkpointing (less memory) and torch.compile of the dense parts (less time), without changing results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pdetr3d.models.norm import statistics_held

# The modules with static shapes: the sizes of everything else (points, clicks, objects) differ from step to step.
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
    """A context for the recomputation: batch norms normalize as before but do not count the batch a second time."""
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
    """Compile the modules of DENSE in place with torch.compile, and return their names; the state dict keeps its names.

    Stages with activation checkpointing (``run_stage``) are not compiled: a backbone saves either memory or time.
    """
    global _recomputed
    # Dynamo cannot trace our context managers, so such a stage is excluded from the compiled graph. It is excluded
    # here, because a decorator would import torch._dynamo (1 s) in every process that has a model.
    _recomputed = torch.compiler.disable(_recomputed)
    done: list[str] = []
    for name, module in model.named_modules():
        if name in DENSE or name.rpartition(".")[0] in DENSE and isinstance(module, nn.Sequential):
            if isinstance(module, nn.ModuleList):
                continue  # it has no forward; its members are compiled
            if not any(name.startswith(f"{parent}.") for parent in done):
                module.compile(backend=backend)
                done.append(name)
    return done
