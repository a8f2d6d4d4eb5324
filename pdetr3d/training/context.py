"""The interface between the training loop and its launcher. ``LocalContext`` is one process; ``ray_jobs`` has Ray's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdetr3d.schema import SampleRecord
from pdetr3d.training.plan import LoadBatch, Plan


class TrainContext(Protocol):
    """The services that the training loop asks of its launcher: data, ranks, checkpoints, logging.

    Attributes:
        rank: number of this training process, 0 .. world_size - 1. world_size: number of training processes.
        device: the device that trains.
    """

    rank: int
    world_size: int
    device: torch.device

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        """This rank's local batches from step ``start_step`` (from 0) on, as the arrays of ``Batch``."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Make a model, already on ``device``, average its gradients over the ranks."""

    def rank_mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` (any shape, the same on every rank) over the ranks, detached."""

    def resume_file(self) -> Path | None:
        """The checkpoint to continue from, if there is one."""

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Hand over a kept checkpoint's folder (rank 0; other ranks give None). Every rank calls it equally often."""

    def save(self, file: Path, step: int) -> None:
        """Rank 0: store a checkpoint file to continue from, after ``step`` finished steps. It replaces the previous."""

    def save_now(self) -> bool:
        """Rank 0: whether a checkpoint must be saved at once, because the job or its machine is about to end."""

    def keep_record(self, name: str, text: str) -> str:
        """Any rank: write a text file of this name beside the checkpoints; returns its path or URI."""

    def stop(self) -> bool:
        """Whether training ends early (``optim.patience``). Every rank calls it equally often and gets one answer."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Rank 0: record the metrics of a step with the experiment tracker. It never raises."""


class LocalContext:
    """A ``TrainContext`` (see there for the methods) of one process without Ray, for tests and debugging.

    Args:
        records: the stage's samples. plan: their order. load: reads a batch.
        folder: where checkpoints and records are kept.
        device: name of the torch device that trains.

    Attributes:
        history: (step, metrics) of every ``log``.
    """

    rank, world_size = 0, 1

    def __init__(
        self, records: Sequence[SampleRecord], plan: Plan, load: LoadBatch, folder: Path, device: str = "cpu"
    ) -> None:
        self.records, self.plan, self.load, self.folder = records, plan, load, folder
        self.device = torch.device(device)
        self.history: list[tuple[int, dict[str, float]]] = []

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        for step in range(start_step, self.plan.steps):
            share = self.plan.at(step, 0, 1)
            yield self.load([self.records[i] for i, _ in share], [number for _, number in share], step)

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def rank_mean(self, value: Tensor) -> Tensor:
        return value.detach()

    def resume_file(self) -> Path | None:
        """The checkpoint with the most finished steps, of those to continue from and the kept ones."""
        files = {int(file.stem.split("_")[1]): file for file in self.folder.glob("resume_*.pt")}
        files |= {int(file.parent.name.split("_")[1]): file for file in self.folder.glob("step_*/checkpoint.pt")}
        return files[max(files)] if files else None

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Move the checkpoint's folder to ``folder``."""
        if checkpoint is not None:
            checkpoint.rename(self.folder / checkpoint.name)

    def save(self, file: Path, step: int) -> None:
        """Move the file to ``folder``, and then remove older ones."""
        old = list(self.folder.glob("resume_*.pt"))
        file.rename(self.folder / f"resume_{step:07d}.pt")
        for earlier in old:
            earlier.unlink()

    def save_now(self) -> bool:
        return False

    def keep_record(self, name: str, text: str) -> str:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)
        return str(self.folder / name)

    def stop(self) -> bool:
        return False

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.history.append((step, metrics))
