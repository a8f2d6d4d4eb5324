"""Predicts frames batch by batch while it reads the next files, for ``pdetr3d predict`` and ``ray_jobs.predict``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pdetr3d.batch import Batch
from pdetr3d.data.loading.collate import collate
from pdetr3d.inference.frames import Asked, Frame, Loaded
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.schema import Boxes3D, Sample
from pdetr3d.training.flow import PREDICT_BATCH

THREADS = 2  # number of threads that read files
AHEAD = 2 * PREDICT_BATCH  # number of frames that are read ahead
FEW = 100  # a sample with fewer points in the student's range is counted
LEAST = 0.1  # or with a smaller share of its points there
BEST = 5  # boxes of a sample that are compared with the ground
AROUND_M = 3.0  # half of the side of the square around a box whose lowest points are the ground
ENOUGH = 10  # points that are needed there
SAMPLED = 30_000  # points that are looked at: accumulated sweeps have ten times as many
OFF_M = 0.8  # a box is counted that stands higher above the ground than this, or lower
JUDGED = 5  # boxes that must be compared with the ground for a judgment


@dataclass
class Counts:
    """Counts of a prediction.

    Attributes:
        samples: predicted samples. empty: those without a box. boxes: all boxes.
        dropped_points: points that were left out because a value was not finite. dropped_in: samples with such points.
        intensity: the largest intensity [0..255] of any point. ages: the most different ages of a file's points.
        steep: samples whose points extend further along z than along x or y.
        sparse: samples with fewer than FEW points, or less than LEAST of them, in the student's range.
        grounded: boxes that were compared with the ground (``above_ground``). floating: those that stand over OFF_M
            above or below it. offset_m: the sum of the heights of the latter.
    """

    samples: int = 0
    empty: int = 0
    boxes: int = 0
    dropped_points: int = 0
    dropped_in: int = 0
    intensity: float = 0.0
    ages: int = 1
    steep: int = 0
    sparse: int = 0
    grounded: int = 0
    floating: int = 0
    offset_m: float = 0.0

    def add(self, loaded: Loaded, boxes: Boxes3D) -> None:
        """Count one sample."""
        self.samples += 1
        self.empty += not len(boxes)
        self.boxes += len(boxes)
        self.dropped_points += loaded.dropped
        self.dropped_in += loaded.dropped > 0
        self.intensity, self.ages = max(self.intensity, loaded.intensity), max(self.ages, loaded.ages)
        self.steep += loaded.steep
        self.sparse += loaded.near < max(FEW, LEAST * len(loaded.sample.points))
        heights = above_ground(loaded.sample.points, boxes)
        off = heights[np.abs(heights) > OFF_M]
        self.grounded += len(heights)
        self.floating += len(off)
        self.offset_m += float(off.sum())

    def merge(self, other: Counts) -> None:
        """Add the counts of another prediction."""
        largest = max(self.intensity, other.intensity), max(self.ages, other.ages)
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.intensity, self.ages = largest

    def summary(self, asked: Asked, num_sweeps: int) -> dict[str, object]:
        """The rows of the command's final message: name -> value. ``num_sweeps``: those of the student's training."""
        rows: dict[str, object] = {"samples": f"{self.samples} ({self.empty} without boxes)", "boxes": self.boxes}
        if asked.lidar and asked.poses is None and num_sweeps > 1:
            rows["sweeps"] = (
                f"one per file, of age 0, unless it has ages; the student was trained on up to {num_sweeps}: with "
                "--poses the earlier files are accumulated"
            )
        if self.ages > num_sweeps:
            rows["sweeps"] = (
                f"up to {self.ages} in a file; the student was trained on up to {num_sweeps}: give it as many"
            )
        if self.dropped_points:
            rows["left out"] = f"{self.dropped_points} points of {self.dropped_in} samples, as they are not finite"
        if self.steep:
            rows["axes"] = (
                f"the points of {self.steep} samples extend further along z than along x or y: x points to the right, "
                "y forward, z up; are the columns in another order (--columns)?"
            )
        if self.sparse:
            rows["few points"] = (
                f"{self.sparse} samples hold fewer than {FEW} points in the student's range, or less than "
                f"{LEAST:.0%} of their points: are the files whole, and in the LiDAR's own frame?"
            )
        height = self.offset_m / max(1, self.floating)
        if self.floating > 0.5 * self.grounded >= 0.5 * JUDGED and abs(height) > OFF_M:
            rows["ground"] = (
                f"{self.floating} of the {self.grounded} best boxes stand about {abs(height):.1f} m "
                f"{'above' if height > 0 else 'below'} the ground of the points: z = 0 must be at the height where it "
                "was in the student's training (nuScenes, KITTI: the LiDAR's, about 1.8 m above the ground); move the "
                "points up or down"
            )
        if asked.lidar and 0 < self.intensity <= 1:
            rows["warning"] = (
                f"no intensity is above {self.intensity:.3g}, the student was trained on 0..255: if the files' full "
                "scale is 1, use --intensity-max 1"
            )
        return rows


def above_ground(points: NDArray[np.float32], boxes: Boxes3D) -> NDArray[np.float64]:
    """How high boxes stand above the ground [m], i.e. the lowest points around them: (n,) of those with points there.

    Args:
        points: (P, 3+). boxes: by falling score, in the same frame; BEST of them are compared.
    """
    heights, points = [], points[:: max(1, len(points) // SAMPLED), :3]
    for center, size in zip(boxes.center_m[:BEST], boxes.size_m[:BEST], strict=True):
        around = points[(np.abs(points[:, :2] - center[:2]) < AROUND_M).all(1), 2]
        if len(around) >= ENOUGH:
            heights.append(float(center[2] - size[2] / 2 - np.quantile(around, 0.05)))
    return np.array(heights, np.float64)


def predict_frames(
    student: StudentPredictor, frames: Sequence[Frame], counts: Counts, min_score: float = 0.0
) -> Iterator[tuple[Frame, Sample, Boxes3D]]:
    """Predict frames in order.

    Args:
        counts: every frame is added to it. min_score: boxes of a lower score are left out.

    Yields:
        The frame, its sample (points, LIDAR_TOP frame) and its boxes (same frame).

    Raises:
        DataError: for the first frame that cannot be read.
    """
    loaded_frames = _read_ahead(student, frames)
    remaining = iter(frames)
    while batch := list(islice(loaded_frames, PREDICT_BATCH)):
        found = student.detect(Batch.from_arrays(collate([loaded.sample for loaded in batch])))
        for frame, loaded, boxes in zip(islice(remaining, len(batch)), batch, found, strict=True):
            kept = boxes[boxes.score >= min_score]
            counts.add(loaded, kept)
            yield frame, loaded.sample, kept


def _read_ahead(student: StudentPredictor, frames: Sequence[Frame]) -> Iterator[Loaded]:
    """Load frames in order; threads load the next AHEAD frames meanwhile."""
    pool, ready = ThreadPoolExecutor(THREADS), deque[Future[Loaded]]()
    try:
        for frame in frames:
            ready.append(pool.submit(frame.load, student.config))
            if len(ready) > AHEAD:
                yield ready.popleft().result()
        while ready:
            yield ready.popleft().result()
    finally:  # after an error or Ctrl-C no further file is read
        pool.shutdown(wait=False, cancel_futures=True)
