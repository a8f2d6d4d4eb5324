"""``RayContext``: gives the training loop its batches, ranks, checkpoints and logs inside a Ray Train worker."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pyarrow.fs import FileSystem, FileType
from ray.train import Checkpoint
from torch import Tensor, nn

from pdetr3d.data.storage.whole_file import whole_file
from pdetr3d.tracking.runs import MetricLogger
from pdetr3d.training.checkpoint import FILE
from pdetr3d.training.plan import Plan
from ray_jobs.plug.resume import RESUME, checkpoint_name, forget, resume_point, write_progress
from ray_jobs.plug.resume import read_progress as read_progress  # callers outside import both from here
from ray_jobs.plug.save_requests import SaveRequests
from ray_jobs.plug.stream import RankBatches
from ray_jobs.plug.watchdog import Watchdog

STATS = "stream_stats.txt"  # the file of Ray Data's statistics of a stage's stream


class RayContext:
    """Implements ``pdetr3d.training.context.TrainContext``.

    Args:
        plan: of the stage. scratch: local folder for checkpoints before they are stored. folder: URI of the stage's
            folder in storage (checkpoints, progress.txt). logger: of MLflow, on rank 0 only. label: begins each
            progress line. load_here: (rank, world size, first step) -> batches, if this process reads them itself;
            None: Ray Data reads them. stall_s: see ``Watchdog``. asked: time at which the driver began the stage [s
            since 1970]; the printed time to the first batch counts from it.
    """

    def __init__(
        self,
        plan: Plan,
        scratch: Path,
        folder: str,
        logger: MetricLogger | None,
        label: str,
        load_here: Callable[[int, int, int], Iterator[dict[str, NDArray]]] | None = None,
        stall_s: float = 300.0,
        asked: float | None = None,
    ) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.plan, self.scratch, self.folder, self.logger, self.label = plan, scratch, folder, logger, label
        self.load_here, self.began_at = load_here, asked
        self.restored = scratch / "resume"
        self.shard: ray.data.DataIterator | None = None
        self.watchdog = Watchdog(folder, self.rank, self.world_size, stall_s)
        self.asked = SaveRequests(folder) if self.rank == 0 else None

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        step = start_step
        self.watchdog.beat("waits for its batch", step)
        for step, arrays in enumerate(self._batches(start_step), start_step):
            if self.began_at is not None and self.rank == 0:
                waited = time.time() - self.began_at
                print(f"{self.label}: first batch {waited:.1f} s after the stage was begun", flush=True)
                self.began_at = None
            self.watchdog.beat("computes", step)
            yield arrays
            self.watchdog.beat("waits for its batch", step + 1)

    def _batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        if self.load_here is not None:
            return self.load_here(self.rank, self.world_size, start_step)
        self.shard = ray.train.get_dataset_shard("train")
        return RankBatches(self.shard, self.plan, self.rank, self.world_size).from_step(start_step)

    def finish(self) -> None:
        """End after training: stop the threads, and write Ray Data's statistics to ``STATS`` in the stage's folder."""
        self.watchdog.stop()
        if self.asked is not None:
            self.asked.stop()
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
        # Ray's controller writes its record of checkpoints some time after ``report`` returns. If the driver dies in
        # between, the model would resume from an older checkpoint than the stream. So both resume from the files.
        point = resume_point(self.folder, say=self.rank == 0)
        if point is None:
            return None
        self.restored.mkdir(exist_ok=True)
        filesystem, _ = FileSystem.from_uri(self.folder)
        with filesystem.open_input_stream(point.path) as source, (self.restored / FILE).open("wb") as sink:
            shutil.copyfileobj(source, sink)
        return self.restored / FILE

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        step = int(metrics["step"])
        self.watchdog.beat("hands over a checkpoint", step - 1)
        handed_over = None if checkpoint is None else Checkpoint.from_directory(str(checkpoint))
        ray.train.report(metrics, checkpoint=handed_over, checkpoint_dir_name=checkpoint_name(step))
        if checkpoint is not None:
            write_progress(self.folder, step)
            shutil.rmtree(checkpoint)
            self._stored()

    def save(self, file: Path, step: int) -> None:
        filesystem, path = FileSystem.from_uri(f"{self.folder}/{RESUME}{step:07d}.pt")
        with file.open("rb") as source, whole_file(filesystem, path) as sink:
            shutil.copyfileobj(source, sink)
        write_progress(self.folder, step)
        shutil.rmtree(file.parent)
        self._stored()

    def _stored(self) -> None:
        forget(self.folder)
        if self.asked is not None:
            self.asked.answered()

    def keep_record(self, name: str, text: str) -> str:
        filesystem, path = FileSystem.from_uri(f"{self.folder}/{name}")
        filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with filesystem.open_output_stream(path) as stream:
            stream.write(text.encode())
        return path

    def save_now(self) -> bool:
        return self.asked is not None and self.asked.new()

    def stop(self) -> bool:
        asked = self.rank == 0 and stop_asked(self.folder)
        return bool(self.rank_mean(torch.tensor(float(asked), device=self.device)) > 0)

    def log(self, metrics: dict[str, float], step: int) -> None:
        apart = ("eta_s", "step_s", "data_s", "stall_share", "samples_per_s", "peak_memory_bytes")
        shown = " ".join(
            f"{k} {v:.4g}" + (f" ({metrics[f'share_{k}']:.1%})" if f"share_{k}" in metrics else "")
            for k, v in metrics.items()
            if k not in apart and not k.startswith("share_")
        )
        print(
            f"{self.label} step {step}/{self.plan.steps} {shown} | {metrics['samples_per_s']:.1f} samples/s "
            f"step {metrics['step_s']:.2f} s (data {metrics['stall_share']:.0%}) ETA {metrics['eta_s']:.0f} s",
            flush=True,
        )
        if self.logger is not None:
            self.logger.log(metrics, step)


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
    """Set PyTorch's threads. Ray sets OMP_NUM_THREADS to the task's number of CPUs, which may be a fraction."""
    torch.set_num_threads(threads)
