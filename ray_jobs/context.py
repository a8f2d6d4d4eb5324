"""``RayContext``: the training loop's surroundings inside a Ray Train worker."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pyarrow.fs import FileSystem
from ray.train import Checkpoint
from torch import Tensor, nn

from pdetr3d.tracking.runs import MetricLogger
from pdetr3d.training.checkpoint import FILE
from pdetr3d.training.plan import Plan
from ray_jobs.stream import RankBatches


class RayContext:
    """Implements ``pdetr3d.training.context.TrainContext``.

    Args:
        plan: of the stage. scratch: where a checkpoint lies while it is handed over. progress_uri: file that remembers
            the last committed step (see ``read_progress``). logger: MLflow, rank 0 only.
        label: starts each progress line.
    """

    def __init__(self, plan: Plan, scratch: Path, progress_uri: str, logger: MetricLogger | None, label: str) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.plan, self.scratch, self.progress_uri, self.logger, self.label = plan, scratch, progress_uri, logger, label
        self.restored = scratch / "resume"

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        shard = ray.train.get_dataset_shard("train")
        return RankBatches(shard, self.plan, self.rank, self.world_size).from_step(start_step)

    def wrap(self, model: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(model, move_to_device=False)

    def rank_mean(self, value: Tensor) -> Tensor:
        value = value.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(value)
        return value / self.world_size

    def resume_file(self) -> Path | None:
        checkpoint = ray.train.get_checkpoint()
        return None if checkpoint is None else Path(checkpoint.to_directory(str(self.restored))) / FILE

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        ray.train.report(metrics, checkpoint=None if checkpoint is None else Checkpoint.from_directory(str(checkpoint)))
        if checkpoint is not None:
            write_progress(self.progress_uri, int(metrics["step"]))
            shutil.rmtree(checkpoint)

    def log(self, metrics: dict[str, float], step: int) -> None:
        shown = " ".join(
            f"{k} {v:.4g}" for k, v in metrics.items() if k not in ("eta_s", "step_s", "data_s", "samples_per_s")
        )
        print(
            f"{self.label} step {step}/{self.plan.steps} {shown} | {metrics['samples_per_s']:.1f} samples/s "
            f"step {metrics['step_s']:.2f} s (data {metrics['data_s']:.2f} s) ETA {metrics['eta_s']:.0f} s",
            flush=True,
        )
        if self.logger is not None:
            self.logger.log(metrics, step)


def write_progress(uri: str, step: int) -> None:
    """Remember the last committed step: a hint of where to start streaming, the checkpoint itself decides."""
    filesystem, path = FileSystem.from_uri(uri)
    filesystem.create_dir(str(Path(path).parent), recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(str(step).encode())


def read_progress(uri: str) -> int:
    """The last committed step, 0 without one."""
    filesystem, path = FileSystem.from_uri(uri)
    with contextlib.suppress(FileNotFoundError, ValueError), filesystem.open_input_stream(path) as stream:
        return int(stream.read().decode())
    return 0


def set_threads(threads: int) -> None:
    """Torch threads of this worker (Ray sets OMP_NUM_THREADS to the task's CPUs, which may be a fraction)."""
    torch.set_num_threads(threads)
