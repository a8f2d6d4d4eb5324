"""Advice, with numbers, for a worker that ran out of memory."""

from __future__ import annotations

import psutil
import torch

from pdetr3d.config import OptimConfig

GIB = 1024**3
MARKS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_cpu")


class OutOfMemoryError(RuntimeError):
    """A worker's memory did not suffice; the message says how much there was, and which keys need less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, CUDA or Python say that memory is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in MARKS)


def advice(error: BaseException, kind: str, optim: OptimConfig, world_size: int, device: torch.device) -> str:
    """What was used, what there is, and what to change, in the order of what it costs."""
    prefix = "teacher.optim" if kind == "teacher" else "optim"
    local = optim.batch_size // world_size
    keys = [f"model.checkpoint_activations=true, {prefix}.amp=bf16 (now {optim.amp})"]
    if local > 1:
        smaller = world_size * max(1, local // 2)
        keys.append(
            f"more scaling.workers (now {world_size}: {local} samples each), or {prefix}.batch_size={smaller} "
            f"(now {optim.batch_size}; the learning rate then fits another batch)"
        )
    keys.append("fewer data.num_sweeps, a smaller data.image_size_px")
    return f"out of memory ({first_line(error)}): {numbers(device)}. It takes less: {'; '.join(keys)}"


def numbers(device: torch.device) -> str:
    """Memory of the device that trains, and of the machine."""
    machine, mine = psutil.virtual_memory(), psutil.Process().memory_info().rss
    said = f"this process holds {mine / GIB:.1f} GiB of the machine's {machine.total / GIB:.1f} GiB, "
    said += f"{machine.available / GIB:.1f} GiB are free"
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        said = f"GPU: tensors took {peak / GIB:.1f} GiB at most, {free / GIB:.1f} of {total / GIB:.1f} GiB are free now"
    return said


def first_line(error: BaseException) -> str:
    """Of an error's message; its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
