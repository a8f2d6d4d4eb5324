"""What the training loop needs from its surroundings. ``LocalContext`` is one process; Ray's is in ``ray_jobs``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdetr3d.schema import SampleRecord
from pdetr3d.training.plan import LoadBatch, Plan


class TrainContext(Protocol):
    """The plug between the loop and its launcher."""

    rank: int
    world_size: int
    device: torch.device

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        """The rank's local batches from ``start_step`` on, as the arrays of ``Batch``."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Distribute a finished model (it is already on ``device``)."""

    def rank_mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over ranks (detached)."""

    def resume_file(self) -> Path | None:
        """The checkpoint to continue from, if there is one."""

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Hand over a finished checkpoint folder (rank 0; None elsewhere). Every rank calls it equally often."""

    def save(self, file: Path, step: int) -> None:
        """Rank 0: store a checkpoint file to continue from; it takes the place of the one before."""

    def save_now(self) -> bool:
        """Rank 0: whether a point to continue from is asked for at once, since the job or its machine is to end."""

    def keep_record(self, name: str, text: str) -> str:
        """Any rank: write a text file beside the checkpoints; returns where it lies."""

    def stop(self) -> bool:
        """Whether training ends here (``optim.patience``). Every rank calls it equally often and is told the same."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Rank 0: record metrics of a step (tracking); never raises."""


class LocalContext:
    """One process, no Ray: tests and debugging.

    Args:
        records: the stage's samples. plan: their order. load: reads a batch. folder: where checkpoints stay.
        device: that trains.
    """

    rank, world_size = 0, 1

    def __init__(
        self, records: list[SampleRecord], plan: Plan, load: LoadBatch, folder: Path, device: str = "cpu"
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
        files = {int(file.stem.split("_")[1]): file for file in self.folder.glob("resume_*.pt")}
        files |= {int(file.parent.name.split("_")[1]): file for file in self.folder.glob("step_*/checkpoint.pt")}
        return files[max(files)] if files else None

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            checkpoint.rename(self.folder / checkpoint.name)

    def save(self, file: Path, step: int) -> None:
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
