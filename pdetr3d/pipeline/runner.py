"""``Runner``, the interface by which a pipeline trains and predicts, and ``LocalRunner``, which needs no Ray."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from numpy.typing import NDArray

from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.inference.detector import Detector
from pdetr3d.pipeline.training import Training, crop_batches, started
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.context import LocalContext
from pdetr3d.training.flow import PREDICT_BATCH
from pdetr3d.training.loop import train
from pdetr3d.training.plan import BatchLoader, milestones

T = TypeVar("T")


class Runner(Protocol):
    """Trains, predicts and runs functions for a pipeline. ``ray_jobs.stages.ray_runner`` has the one on Ray."""

    def fit(self, training: Training, run_dir: Path, score: Callable[[Path], float] | None = None) -> list[Path]:
        """Train, or continue an interrupted training of the same run directory.

        Args:
            training: the training. run_dir: its run directory. score: gives the score of a checkpoint file; higher is
                better. It is called for each kept checkpoint. ``optim.patience`` refers to these scores.

        Returns:
            The kept checkpoints ``run_dir/NAME/step_*.pt`` up to an early stop, oldest first.
        """

    def predict(
        self,
        kind: str,
        config: Config,
        prior_size_m: NDArray,
        checkpoints: Sequence[Path],
        records: Sequence[SampleRecord],
        keep: Path | None = None,
        beside: bool = False,
    ) -> Sequence[Mapping[str, Boxes3D]]:
        """Predict all records with all checkpoints.

        Args:
            kind: "teacher" or "student". config: of the models. prior_size_m: (C, 3) class sizes. checkpoints: files.
            records: samples. keep: folder of finished batches, from which a killed job continues. beside: True while
                the run trains, so that prediction must take few resources.

        Returns:
            Per checkpoint: sample_token -> boxes (LIDAR_TOP frame) of every record. A teacher's boxes are in the order
            of ``record.clicks``.
        """

    def map(self, function: Callable[..., T], calls: Sequence[tuple[Any, ...]], config: Config) -> list[T]:
        """Return ``function(*call)`` of each call, in order. ``config``: its ``scaling`` section applies."""

    def lanes(self, lanes: Sequence[Callable[[], object]], at_once: int) -> object:
        """Call each lane, ``at_once`` at a time. A lane that fails ends the others, and its error is raised."""


class LocalRunner:
    """Implements ``Runner`` in this process, for tests, debugging and machines without Ray.

    It scores checkpoints after the training, so that ``optim.patience`` has no effect.

    Args:
        device: name of the torch device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def fit(self, training: Training, run_dir: Path, score: Callable[[Path], float] | None = None) -> list[Path]:
        folder, plan, config = run_dir / training.name / "local", training.plan, training.config
        folder.mkdir(parents=True, exist_ok=True)
        task = started(training.kind, config, training.prior_size_m, training.choices, training.weights())
        context = _Context(training, folder, self.device)
        with tempfile.TemporaryDirectory(dir=folder) as scratch, _threads(config.scaling.threads_per_worker):
            train(task, context, plan.steps, config.to_json(), Path(scratch))
        files = [folder.parent / f"step_{step:07d}.pt" for step in milestones(training.optim, plan.steps)]
        for file in files:
            shutil.copyfile(folder / file.stem / checkpoint.FILE, file)
            if score is not None:
                score(file)
        shutil.rmtree(folder)
        return files

    def predict(
        self,
        kind: str,
        config: Config,
        prior_size_m: NDArray,
        checkpoints: Sequence[Path],
        records: Sequence[SampleRecord],
        keep: Path | None = None,
        beside: bool = False,
    ) -> list[dict[str, Boxes3D]]:
        load = BatchLoader(config, "predict", cameras=kind == "teacher" and config.teacher.cameras)
        states = [checkpoint.best_weights(checkpoint.load(file)) for file in checkpoints]
        detectors = [Detector.of(kind, config, state, torch.device(self.device), prior_size_m) for state in states]
        found: list[dict[str, Boxes3D]] = [{} for _ in detectors]
        for start in range(0, len(records), PREDICT_BATCH):
            some = list(records[start : start + PREDICT_BATCH])
            batch = Batch.from_arrays(load(some, [0] * len(some)))
            for boxes, detector in zip(found, detectors, strict=True):
                with _threads(config.scaling.threads_per_worker):
                    boxes |= {token.decode(): mine for token, mine in zip(batch.token, detector(batch), strict=True)}
        return found

    def map(self, function: Callable[..., T], calls: Sequence[tuple[Any, ...]], config: Config) -> list[T]:
        return [function(*call) for call in calls]

    def lanes(self, lanes: Sequence[Callable[[], object]], at_once: int) -> object:
        for lane in lanes:  # one after the other, since all threads of a process share PyTorch's random numbers
            lane()
        return None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """A context in which PyTorch uses ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Context(LocalContext):
    """The ``LocalContext`` of a training, which may be one on crops."""

    def __init__(self, training: Training, folder: Path, device: str) -> None:
        super().__init__(training.records, training.plan, training.loader, folder, device)
        self.training = training

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        if self.training.crops is None:
            return super().batches(start_step)
        return crop_batches(self.training.crops, self.plan, self.training.config, 0, 1, start_step)
