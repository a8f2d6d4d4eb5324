"""Predicts boxes of points or of a sample by a trained student: a checkpoint's, a run directory's, or an export's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pdetr3d.batch import Batch
from pdetr3d.config import Config, DataConfig
from pdetr3d.data.loading.collate import collate
from pdetr3d.data.loading.load import load_sample
from pdetr3d.finished.deploy.contract import INFO_FILE
from pdetr3d.finished.deploy.exported import ExportedDetector
from pdetr3d.finished.deploy.source import chosen_checkpoint
from pdetr3d.finished.deploy.sweeps import to_sample
from pdetr3d.inference.detector import Detector, best_device
from pdetr3d.schema import Boxes3D, DataError, SampleRecord


@dataclass(frozen=True)
class StudentPredictor:
    """Predicts boxes from points, both in the keyframe's LIDAR_TOP frame (x right, y forward, z up; m, rad, m/s).

    Attributes:
        config: that of the student's training (``config.data.num_sweeps``: the number of sweeps that it expects).
        file: the checkpoint, or the exported folder.
        detect: batch -> one Boxes3D per sample.
    """

    config: Config
    file: Path
    detect: Callable[[Batch], list[Boxes3D]]

    @staticmethod
    def load(path: Path, arm: str = "ours", device: torch.device | None = None) -> StudentPredictor:
        """Load the student of a run directory, of a folder that ``pdetr3d export`` wrote, or of a checkpoint file.

        Args:
            arm: name of the student in a run directory. The checkpoint that its evaluation chose is loaded, else the
                last one.
            device: default: a GPU if there is one. An exported student runs on the device of its export.

        Raises:
            DataError: when there is no student at ``path``; the message names what is allowed.
        """
        path = Path(path)
        file = student_file(path, arm)
        if file.is_dir():
            exported = ExportedDetector.load(file)
            return StudentPredictor(exported.config, file, _one_by_one(exported))
        detector = Detector.load("student", file, device or best_device())
        return StudentPredictor(detector.config, file, detector)

    def predict(self, points: NDArray[np.float32]) -> Boxes3D:
        """Predict one sample: at most ``student.max_boxes`` boxes of score ``student.score_threshold`` or more, in
        descending score.

        Args:
            points: (P, 5) float32, P >= 0: x, y, z [m], intensity [0..255], age [s] >= 0 (keyframe time - sweep time).

        Raises:
            DataError: for another shape, or numbers that are not finite.
        """
        sample = to_sample({"points": points}, "points", self.config.data)
        return self.detect(Batch.from_arrays(collate([sample])))[0]

    def boxes(self, record: SampleRecord) -> Boxes3D:
        """Predict a sample from its files: the keyframe and up to ``data.num_sweeps - 1`` sweeps, as in training.

        Raises:
            DataError: for a missing or broken file.
        """
        sample = load_sample(record, unpacked(self.config), cameras=False)
        return self.detect(Batch.from_arrays(collate([sample])))[0]


def student_file(path: Path, arm: str = "ours") -> Path:
    """The checkpoint file, or exported folder, that ``StudentPredictor.load`` loads from ``path``.

    Raises:
        DataError: when there is no student at ``path``.
    """
    if path.is_file() or (path / INFO_FILE).is_file():
        return path
    if not path.is_dir():
        raise DataError(
            f"{path}: no such file or folder; allowed are a run directory, a folder that pdetr3d export wrote, and a "
            "checkpoint file (.pt)"
        )
    if (path / "MLmodel").is_file():
        raise DataError(
            f"{path} is an MLflow model: use mlflow to predict with it, or name the run directory, a checkpoint file, "
            "or an export made with --format torchscript or onnx"
        )
    return chosen_checkpoint(path, arm)


def unpacked(config: Config) -> DataConfig:
    """``config.data`` without the training's pack, so that samples are read from their own files."""
    return config.data.model_copy(update={"packed": ""})


def _one_by_one(exported: ExportedDetector) -> Callable[[Batch], list[Boxes3D]]:
    """An exported student, which takes one sample at a time, as a function of batches."""

    def detect(batch: Batch) -> list[Boxes3D]:
        return [exported(batch.points[batch.point_sample == number]) for number in range(len(batch))]

    return detect
