"""Recognizes that a worker ran out of memory, and advises with numbers which config keys reduce its use."""

from __future__ import annotations

import psutil
import torch

from pdetr3d.config import OptimConfig

GIB = 1024**3
MARKS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_cpu")  # in messages of PyTorch


class OutOfMemoryError(RuntimeError):
    """A worker ran out of memory. The message says how much there was, and which config keys reduce the use."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch, CUDA or Python means that no memory is left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in MARKS)


def advice(error: BaseException, kind: str, optim: OptimConfig, world_size: int, device: torch.device) -> str:
    """One line: the memory that was used and that exists, and the keys to change, those that cost least first.

    Args:
        error: of the worker. kind: "teacher" or another stage, which names the keys. optim: the stage's settings.
        world_size: number of training workers. device: the device that trains.
    """
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
    """A sentence on the memory of the device that trains: the GPU's, or the machine's for a CPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"GPU: tensors took {peak / GIB:.1f} GiB at most, {free / GIB:.1f} of {total / GIB:.1f} GiB are free now"
    machine, mine = psutil.virtual_memory(), psutil.Process().memory_info().rss
    return (
        f"this process holds {mine / GIB:.1f} GiB of the machine's {machine.total / GIB:.1f} GiB, "
        f"{machine.available / GIB:.1f} GiB are free"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; the error's type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
