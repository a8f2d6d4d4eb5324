"""``RayContext``: the training loop's surroundings inside a Ray Train worker."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pyarrow.fs import FileSelector, FileSystem, FileType
from ray.train import Checkpoint
from torch import Tensor, nn

from pdetr3d.tracking.runs import MetricLogger
from pdetr3d.training.checkpoint import FILE
from pdetr3d.training.plan import Plan
from ray_jobs.stream import RankBatches

STATS = "stream_stats.txt"  # Ray Data's own account of a stage's stream
RESUME = "resume_"  # starts the names of files that are there to continue from alone


class RayContext:
    """Implements ``pdetr3d.training.context.TrainContext``.

    Args:
        plan: of the stage. scratch: local folder for checkpoints on their way. folder: URI of the stage's folder in
            storage (checkpoints, progress.txt). logger: MLflow, rank 0 only. label: starts each progress line.
        load_here: (rank, world size, first step) -> batches, where this process reads them itself; None: Ray Data does.
    """

    def __init__(
        self,
        plan: Plan,
        scratch: Path,
        folder: str,
        logger: MetricLogger | None,
        label: str,
        load_here: Callable[[int, int, int], Iterator[dict[str, NDArray]]] | None = None,
    ) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.plan, self.scratch, self.folder, self.logger, self.label = plan, scratch, folder, logger, label
        self.load_here = load_here
        self.restored = scratch / "resume"
        self.shard: ray.data.DataIterator | None = None

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        if self.load_here is not None:
            return self.load_here(self.rank, self.world_size, start_step)
        self.shard = ray.train.get_dataset_shard("train")
        return RankBatches(self.shard, self.plan, self.rank, self.world_size).from_step(start_step)

    def finish(self) -> None:
        """After training: what Ray Data says of the stream goes to ``STATS`` in the stage's folder."""
        if self.rank == 0 and self.shard is not None:
            filesystem, path = FileSystem.from_uri(f"{self.folder}/{STATS}")
            with filesystem.open_output_stream(path) as stream:
                stream.write(self.shard.stats().encode())

    def wrap(self, model: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(model, move_to_device=False)

    def rank_mean(self, value: Tensor) -> Tensor:
        value = value.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(value)
        return value / self.world_size

    def resume_file(self) -> Path | None:
        # Ray's own record of checkpoints is written by its controller some time after ``report`` returns; a driver that
        # dies in between would resume from an older one than the stream. So our own record decides, for both.
        step = read_progress(self.folder)
        if step == 0:
            return None
        self.restored.mkdir(exist_ok=True)
        filesystem, path = FileSystem.from_uri(resume_uri(self.folder, step))
        if filesystem.get_file_info(path).type == FileType.NotFound:  # a kept checkpoint
            filesystem, path = FileSystem.from_uri(f"{checkpoint_uri(self.folder, step)}/{FILE}")
        with filesystem.open_input_stream(path) as source, (self.restored / FILE).open("wb") as sink:
            shutil.copyfileobj(source, sink)
        return self.restored / FILE

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        step = int(metrics["step"])
        handed_over = None if checkpoint is None else Checkpoint.from_directory(str(checkpoint))
        ray.train.report(metrics, checkpoint=handed_over, checkpoint_dir_name=checkpoint_name(step))
        if checkpoint is not None:
            write_progress(self.folder, step)
            shutil.rmtree(checkpoint)
            self._forget_saves()

    def save(self, file: Path, step: int) -> None:
        filesystem, path = FileSystem.from_uri(resume_uri(self.folder, step))
        filesystem.create_dir(str(Path(path).parent), recursive=True)
        with file.open("rb") as source, filesystem.open_output_stream(path) as sink:
            shutil.copyfileobj(source, sink)
        write_progress(self.folder, step)  # from now on it counts: a file that was cut does not
        shutil.rmtree(file.parent)
        self._forget_saves(but=Path(path).name)

    def _forget_saves(self, but: str = "") -> None:
        """Delete what ``save`` stored, but for one file."""
        filesystem, path = FileSystem.from_uri(self.folder)
        for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True)):
            if info.base_name.startswith(RESUME) and info.base_name != but:
                filesystem.delete_file(info.path)

    def stop(self) -> bool:
        asked = self.rank == 0 and stop_asked(self.folder)
        return bool(self.rank_mean(torch.tensor(float(asked), device=self.device)) > 0)

    def log(self, metrics: dict[str, float], step: int) -> None:
        apart = ("eta_s", "step_s", "data_s", "stall_share", "samples_per_s", "peak_memory_bytes")
        shown = " ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k not in apart)
        print(
            f"{self.label} step {step}/{self.plan.steps} {shown} | {metrics['samples_per_s']:.1f} samples/s "
            f"step {metrics['step_s']:.2f} s (data {metrics['stall_share']:.0%}) ETA {metrics['eta_s']:.0f} s",
            flush=True,
        )
        if self.logger is not None:
            self.logger.log(metrics, step)


def checkpoint_name(step: int) -> str:
    """Folder of a checkpoint under the stage's folder."""
    return f"step_{step:07d}"


def checkpoint_uri(folder: str, step: int) -> str:
    """Where the stage's checkpoint of a step lies in storage."""
    return f"{folder}/{checkpoint_name(step)}"


def resume_uri(folder: str, step: int) -> str:
    """Where a file to continue from lies in storage, unless the step's checkpoint is kept (``checkpoint_uri``)."""
    return f"{folder}/{RESUME}{step:07d}.pt"


def write_progress(folder: str, step: int) -> None:
    """Remember the step of the newest checkpoint that is complete in storage."""
    filesystem, path = FileSystem.from_uri(f"{folder}/progress.txt")
    filesystem.create_dir(str(Path(path).parent), recursive=True)
    with filesystem.open_output_stream(f"{path}.tmp") as stream:
        stream.write(str(step).encode())
    filesystem.move(f"{path}.tmp", path)


def read_progress(folder: str) -> int:
    """The step of the newest complete checkpoint, 0 without one."""
    filesystem, path = FileSystem.from_uri(f"{folder}/progress.txt")
    with contextlib.suppress(FileNotFoundError, ValueError), filesystem.open_input_stream(path) as stream:
        return int(stream.read().decode())
    return 0


def write_stop(folder: str) -> None:
    """Ask the stage's workers to stop at their next kept checkpoint."""
    filesystem, path = FileSystem.from_uri(f"{folder}/stop.txt")
    with filesystem.open_output_stream(path):
        pass


def stop_asked(folder: str) -> bool:
    """Whether ``write_stop`` was called for the stage."""
    filesystem, path = FileSystem.from_uri(f"{folder}/stop.txt")
    return filesystem.get_file_info(path).type != FileType.NotFound


def set_threads(threads: int) -> None:
    """Torch threads of this worker (Ray sets OMP_NUM_THREADS to the task's CPUs, which may be a fraction)."""
    torch.set_num_threads(threads)
