"""Predicts one box per click of a sample by a trained teacher, without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.data.loading.collate import collate
from pdetr3d.data.loading.load import load_sample
from pdetr3d.inference.detector import Detector, best_device
from pdetr3d.inference.student import unpacked
from pdetr3d.run_files import RunFiles
from pdetr3d.schema import Boxes3D, DataError, PointLabels, Sample, SampleRecord


class TeacherPredictor:
    """Predicts boxes from clicks, both in the sample's LIDAR_TOP frame (x right, y forward, z up; m, rad).

    The last sample is kept in memory, so that further clicks on it need not read its files again.

    Attributes:
        config: that of the teacher's training. file: its checkpoint. detector: its model.
    """

    def __init__(self, detector: Detector, file: Path) -> None:
        self.detector, self.file = detector, file
        self.config: Config = detector.config
        self._last: tuple[SampleRecord, Sample] | None = None

    @staticmethod
    def load(path: Path, device: torch.device | None = None) -> TeacherPredictor:
        """Load the teacher of a run directory (its last checkpoint), or of a checkpoint file.

        Args:
            device: default: a GPU if there is one.

        Raises:
            DataError: when there is no teacher at ``path``; the message names what is allowed.
        """
        file = teacher_file(Path(path))
        return TeacherPredictor(Detector.load("teacher", file, device or best_device()), file)

    @property
    def prior_size_m(self) -> NDArray[np.float32]:
        """(C, 3) mean l, w, h [m] of each class in the teacher's training data, which its weights contain."""
        sizes = [value for name, value in self.detector.task.model.named_buffers() if name.endswith("prior_size_m")]
        return sizes[0].cpu().numpy()

    def boxes(
        self, record: SampleRecord, clicks: NDArray[np.floating], labels: NDArray[np.integer] | Sequence[str]
    ) -> Boxes3D:
        """Predict one box per click, in the order of the clicks; ``score`` is the quality (BEV IoU) that is expected.

        Args:
            record: the sample; its own boxes and clicks are not used.
            clicks: (K, 3) x, y, z [m], K >= 0.
            labels: (K,) indices into ``config.classes``, or K names of classes.

        Raises:
            DataError: for a missing or broken file of the sample, clicks of another shape, or an unknown class.
        """
        places = [self._label(label) for label in labels]
        if np.shape(clicks) != (len(places), 3) and (len(places) or np.size(clicks)):
            raise DataError(f"clicks of shape {np.shape(clicks)} with {len(places)} classes: give K x 3 numbers and K")
        if not places:
            return Boxes3D.empty()
        sample = dataclasses.replace(self._sample(record), boxes=Boxes3D.empty(), clicks=point_labels(clicks, places))
        return self.detector(Batch.from_arrays(collate([sample])))[0]

    def _label(self, label: int | str) -> int:
        names = self.config.classes.names
        if label in names:
            return names.index(str(label))
        if isinstance(label, str) or not 0 <= label < len(names):
            raise DataError(f"unknown class {label!r}: {self.config.classes.allowed}")
        return int(label)

    def _sample(self, record: SampleRecord) -> Sample:
        if self._last is None or self._last[0] is not record and not _same(self._last[0], record):
            self._last = record, load_sample(record, unpacked(self.config), self.config.teacher.cameras)
        return self._last[1]


def point_labels(clicks: NDArray[np.floating], labels: NDArray[np.integer] | Sequence[int]) -> PointLabels:
    """Clicks (K, 3) [m] of classes (K,) as ``PointLabels`` without boxes; the ids are "0" .. "K-1"."""
    xyz, label = np.asarray(clicks, np.float64).reshape(-1, 3), np.asarray(labels, np.int64).reshape(-1)
    return PointLabels(np.arange(len(label)).astype(str).astype(object), xyz, label, np.full(len(label), -1))


def teacher_file(path: Path) -> Path:
    """The checkpoint file that ``TeacherPredictor.load`` loads from ``path``.

    Raises:
        DataError: when there is no teacher at ``path``.
    """
    if path.is_file():
        return path
    files = RunFiles(path).checkpoints("teacher")
    if not files:
        state = "no such file or folder" if not path.exists() else "no teacher is trained there"
        raise DataError(
            f"{path}: {state}; allowed are a run directory whose teacher is trained (python -m "
            "ray_jobs.train_teacher --run-dir DIR), and a teacher's checkpoint file (.pt)"
        )
    return files[-1]


def _same(one: SampleRecord, other: SampleRecord) -> bool:
    """Whether two records are read from the same files."""
    return (one.sample_token, one.lidar_path) == (other.sample_token, other.lidar_path)
