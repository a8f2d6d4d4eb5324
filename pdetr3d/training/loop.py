"""The training loop: batch -> model -> losses -> finite check -> clip -> step -> log -> checkpoint."""

from __future__ import annotations

import contextlib
import math
import resource
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pdetr3d.batch import Batch, RankMean
from pdetr3d.data.draws import keyed_rng
from pdetr3d.models.recompute import compile_dense
from pdetr3d.training import checkpoint
from pdetr3d.training.build import Task
from pdetr3d.training.context import TrainContext
from pdetr3d.training.ema import averaged
from pdetr3d.training.nonfinite import Guard, NonFiniteError
from pdetr3d.training.optim import learning_rate, make_optimizer, set_learning_rate
from pdetr3d.training.plan import milestones

AMD = "AuthenticAMD"  # ``cpu_vendor`` of AMD's CPUs
LEAST_SCALE = 1.0  # fp16: gradients that overflow at this or a smaller loss scale are not finite without it either


def train(task: Task, context: TrainContext, steps: int, config_json: str, scratch: Path) -> None:
    """Train to ``steps`` optimizer steps, or until ``context.stop()``; continues from ``context.resume_file()``.

    Args:
        task: the model and its training settings. context: data, ranks, device, checkpoints, logging.
        steps: number of optimizer steps of the whole training, with those of the checkpoint that it continues from.
        config_json: stored in every checkpoint.
        scratch: local folder for checkpoints before they are handed to the context.

    Raises:
        FloatingPointError: when a loss or the gradient norm is not finite (before the weights change), unless
            ``optim.on_nonfinite`` is "skip".
        DataError: when a batch, or the checkpoint to continue from, cannot be read.
    """
    model = task.model.to(context.device)
    optimizer = make_optimizer(model, task.optim)
    scaler = torch.amp.GradScaler(context.device.type, enabled=task.optim.amp == "fp16")
    average = averaged(model, task.optim.ema_decay) if task.optim.ema_decay else None
    start = _resume(model, optimizer, scaler, average, context)
    if task.optim.compile:
        compile_dense(model)
    wrapped = context.wrap(model).train()
    keep, meter, guard = milestones(task.optim, steps), Meter(steps, start), Guard(task.optim, context, model)
    meter.wait_begins()
    for step, arrays in enumerate(context.batches(start), start=start):
        meter.wait_ends()
        batch = Batch.from_arrays(arrays).to(context.device)
        torch.manual_seed(dropout_seed(task.seed, step, context.rank))  # the same after a resume
        if task.teach is not None and average is not None:
            batch = task.teach(average.module, batch)
        rate = learning_rate(task.optim, step, steps)
        task.before_step(step, steps)
        guard.step_begins()
        try:
            terms = train_step(wrapped, optimizer, task, batch, context, rate, scaler)
        except NonFiniteError as error:
            guard.handle(error, step, arrays, optimizer, scaler)
            terms = {}
        if average is not None and terms:
            average.update_parameters(model)
        done = step + 1
        meter.add(terms, len(batch) * context.world_size)
        if done % task.optim.log_every == 0 or done == steps:
            metrics = meter.flush(done, rate, context.rank_mean)
            if context.rank == 0:
                context.log(metrics, done)
        folder = scratch / f"step_{done:07d}"
        saves = task.optim.save_every > 0 and done % task.optim.save_every == 0
        if context.rank == 0 and (saves or done in keep or context.save_now()):
            file = checkpoint.save(folder, model, optimizer, done, config_json, scaler, average)
            if done not in keep:
                context.save(file, done)
        if done in keep:
            context.report({"step": float(done)}, folder if context.rank == 0 else None)
            if task.optim.patience and context.stop():
                break
        meter.wait_begins()


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the dropout masks of step ``step`` on rank ``rank``, drawn from ``run.seed``."""
    return int(keyed_rng(seed, step, str(rank), "dropout").integers(2**63))


def _resume(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
    context: TrainContext,
) -> int:
    """Load the checkpoint to continue from, if there is one; returns the number of finished steps."""
    file = context.resume_file()
    if file is None:
        return 0
    state = checkpoint.load(file)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scaler.is_enabled():
        scaler.load_state_dict(state["scaler"])
    if average is not None:
        average.load_state_dict(state["average"])
    return int(state["step"])


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    batch: Batch,
    context: TrainContext,
    rate: float,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Take one optimizer step at learning rate ``rate``.

    In fp16 a gradient that overflows lowers the loss scale and skips the step ("skipped" is 1), as GradScaler does.

    Returns:
        Detached scalars: every loss term by its name, its share of the loss ("share_..."), "loss", "grad_norm" (before
        clipping), "skipped" (fp16 only) and the numbers of ``task.watch``.

    Raises:
        NonFiniteError: on all ranks, when one of them has a loss or gradients that are not finite.
    """
    scaler = scaler or torch.amp.GradScaler(context.device.type, enabled=False)
    with autocast(task.optim.amp, context.device):
        output = model(batch)
        terms = task.losses(output, batch, context.rank_mean)
    loss = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), task.optim.clip_norm)
    overflow = scaler.is_enabled() and scaler.get_scale() > LEAST_SCALE and not math.isfinite(norm.item())
    finite = torch.isfinite(loss.detach() if overflow else loss.detach() + norm)
    # The loop waits for the device only here. All ranks stop, or skip the step, together.
    if context.rank_mean((~finite).float()).item() > 0:
        values = {k: v.item() for k, v in terms.items()}
        tokens = [token.decode() for token in batch.token]
        raise NonFiniteError(values, norm.item(), tokens, here=not math.isfinite(loss.item()))
    set_learning_rate(optimizer, rate)
    scaler.step(optimizer)
    scaler.update()
    skipped = {"skipped": norm.new_tensor(float(overflow))} if scaler.is_enabled() else {}
    norm = torch.zeros_like(norm) if overflow else norm.detach()
    detached = {k: v.detach() for k, v in terms.items()}
    shares = {f"share_{k}": v / loss.detach().clamp(min=1e-9) for k, v in detached.items()}
    return {**detached, **shares, "loss": loss.detach(), "grad_norm": norm, **skipped, **task.watch(output)}


def autocast(amp: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The precision context of ``optim.amp``: "bf16", "fp16", "fp32", or "auto" (bf16 where it is fast, else fp32)."""
    if amp == "fp32" or (amp == "auto" and not computes_in_bf16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.float16 if amp == "fp16" else torch.bfloat16)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device computes faster in bfloat16 than in float32.

    That holds for GPUs that do not emulate bfloat16, for CPUs with AMX, and for AMD's CPUs with AVX512-BF16. Intel's
    CPUs with AVX512-BF16 but without AMX took twice as long for convolutions as in float32 (measured).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # PyTorch has no public names for these in all versions that pyproject.toml allows.
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and cpu_vendor() == AMD)


def cpu_vendor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's ``vendor_id`` on Linux ("AuthenticAMD", "GenuineIntel"); "" where it is not given."""
    text = file.read_text() if file.exists() else ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("vendor_id")), "")


class Meter:
    """Averages loss terms and times between two log lines.

    Args:
        steps: of the whole training. start: steps that were finished before this process began.
    """

    def __init__(self, steps: int, start: int) -> None:
        self.steps, self.start, self.begin, self.nonfinite = steps, start, time.monotonic(), 0
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count, self.samples, self.wait_s, self.since = 0, 0, 0.0, time.monotonic()

    def wait_begins(self) -> None:
        """The loop begins to wait for the next batch."""
        self._wait_from = time.monotonic()

    def wait_ends(self) -> None:
        """The loop has received the next batch."""
        self.wait_s += time.monotonic() - self._wait_from

    def add(self, terms: dict[str, Tensor], samples: int) -> None:
        """Count a step of ``samples`` samples over all ranks; empty ``terms``: the step was skipped as not finite."""
        for key, value in terms.items():
            self.sums[key] = self.sums.get(key, torch.zeros_like(value)) + value
        self.count += bool(terms)
        self.nonfinite += not terms
        self.samples += samples

    def flush(self, done: int, rate: float, rank_mean: RankMean) -> dict[str, float]:
        """Return the means since the last flush and begin anew. Every rank must call it.

        Args:
            done: finished steps. rate: current learning rate.

        Returns:
            The loss terms (means over steps and ranks); "nonfinite_steps" since the start, if there were any; "lr";
            "samples_per_s" of all ranks; "data_s" (time that a step waited for data) and "step_s", both in seconds per
            step; "stall_share" (share of the time spent waiting for data); "eta_s" to the end of training, in seconds;
            "peak_memory_bytes".
        """
        elapsed = max(time.monotonic() - self.since, 1e-9)
        # A rank's terms are its part of the global batch's loss: only their mean over ranks is the minimized loss.
        count, metrics = max(1, self.count), dict[str, float]()
        if self.sums:  # empty if all steps since the last flush were skipped
            means = rank_mean(torch.stack([value.float() for value in self.sums.values()]) / count)
            metrics = dict(zip(self.sums, means.tolist(), strict=True))
        if self.nonfinite:
            metrics["nonfinite_steps"] = float(self.nonfinite)
        metrics |= {"lr": rate, "samples_per_s": self.samples / elapsed, "data_s": self.wait_s / count}
        metrics |= {"step_s": elapsed / count, "stall_share": self.wait_s / elapsed}
        metrics["eta_s"] = (time.monotonic() - self.begin) / (done - self.start) * (self.steps - done)
        metrics["peak_memory_bytes"] = peak_memory_bytes()
        self._reset()
        return metrics


def peak_memory_bytes() -> float:
    """The highest memory use so far in bytes: of PyTorch's GPU allocator if there is a GPU, else of this process."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB
