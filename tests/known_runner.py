"""Runners without models: one notes what it should train; one knows the true boxes, and errs by a known distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import Config
from pdetr3d.data.label_manifest import inspection_records
from pdetr3d.pipeline.lineage import step_of
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.runner import LocalRunner
from pdetr3d.pipeline.training import Training
from pdetr3d.schema import Boxes3D, SampleRecord


class NotingRunner(LocalRunner):
    """Implements ``Runner`` without models: it notes the trainings, and predicts by ``boxes``.

    Attributes:
        trainings: in the order in which they were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trainings: list[Training] = []

    def fit(self, training: Training, run_dir: Path, score: Callable[[Path], float] | None = None) -> list[Path]:
        self.trainings.append(training)
        return [self.keep(training, run_dir, 1)]

    @staticmethod
    def keep(training: Training, run_dir: Path, step: int) -> Path:
        """Write a checkpoint, whose content is the stage's name."""
        file = run_dir / training.name / f"step_{step:07d}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(training.name)
        return file

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
        return self.boxes(kind, config, checkpoints, records)

    def boxes(
        self, kind: str, config: Config, checkpoints: Sequence[Path], records: Sequence[SampleRecord]
    ) -> list[dict[str, Boxes3D]]:
        """For each checkpoint: token -> boxes."""
        raise AssertionError("this runner predicts nothing")


class KnownRunner(NotingRunner):
    """Its boxes lie beside the true ones, along x.

    Args:
        error_m: step of a checkpoint -> its distance [m] from the truth. A training keeps checkpoints of these steps,
            but not of step 0.

    Attributes:
        run: must be set before a prediction. asked: names of the checkpoints of each prediction. Blurred images add
            ``corruption.blur_px`` millimeters to the error.
    """

    run: Run

    def __init__(self, error_m: Mapping[int, float]) -> None:
        super().__init__()
        self.error_m = error_m
        self.asked: list[list[str]] = []

    def fit(self, training: Training, run_dir: Path, score: Callable[[Path], float] | None = None) -> list[Path]:
        self.trainings.append(training)
        return [self.keep(training, run_dir, step) for step in self.error_m if step]

    def boxes(
        self, kind: str, config: Config, checkpoints: Sequence[Path], records: Sequence[SampleRecord]
    ) -> list[dict[str, Boxes3D]]:
        self.asked.append([file.name for file in checkpoints])
        truth = {record.sample_token: self.true_boxes(kind, record) for record in records}
        return [
            {
                token: moved(boxes, self.error_m[step_of(file)] + config.corruption.blur_px / 1000)
                for token, boxes in truth.items()
            }
            for file in checkpoints
        ]

    def true_boxes(self, kind: str, record: SampleRecord) -> Boxes3D:
        """All boxes of a sample, or, of a teacher, one for each click."""
        data = self.run.data
        if kind == "student":
            return data.index.annotations(record.sample_token).boxes()
        whole = record
        if not (record.role == "box" and len(record.boxes)):
            (whole,) = inspection_records(data.index, [record.sample_token], data.manifest)
        box_of: dict[Any, int] = dict(zip(whole.clicks.click_id, whole.clicks.box_index, strict=True))
        return whole.boxes[np.array([box_of[click] for click in record.clicks.click_id], np.int64)]


def moved(boxes: Boxes3D, x_m: float) -> Boxes3D:
    """The boxes with score 0.5, ``x_m`` farther along x."""
    score = np.full(len(boxes), 0.5)
    return Boxes3D.build(
        boxes.center_m + [x_m, 0, 0],
        boxes.size_m,
        boxes.yaw_rad,
        boxes.label,
        score=score,
        velocity_m_s=boxes.velocity_m_s,
    )
