"""The self-motivated student: a LiDAR-only CenterPoint (method.md 5). ``forward`` uses neither clicks nor images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdetr3d.batch import Batch, Cells, StudentOutput, TaskMaps
from pdetr3d.config import Config
from pdetr3d.geometry.center_code import decode, part
from pdetr3d.models.center_head import CenterHead, class_peaks, peaks
from pdetr3d.models.guidance_branch import GuidanceBranch
from pdetr3d.models.lidar import StudentFeatures
from pdetr3d.models.suppression import suppress
from pdetr3d.schema import SOURCE_PSEUDO, Boxes3D


class Student(StudentFeatures):
    """LiDAR stages -> SECONDFPN -> center head; boxes are regressed at objects in training, at peaks in inference.

    Args:
        config: of the run. guided: in training, also return the features of both views for point guidance.
    """

    def __init__(self, config: Config, *, guided: bool = False) -> None:
        super().__init__(config)
        self.config = config
        self.head = CenterHead(self.neck.channels, config.student.head_channels, config.tasks, config.model.norm)
        self.guidance = GuidanceBranch(config, self) if guided else None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as ``nn.Module`` does; a student without guidance ignores weights of the guidance branch."""
        if self.guidance is None:
            state_dict = {k: v for k, v in state_dict.items() if not k.startswith("guidance.")}
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, batch: Batch) -> StudentOutput:
        features = self.features(batch.points, batch.point_sample, len(batch))
        strong, weak = features, None
        if self.training and self.guidance is not None:
            strong, weak = self.guidance(self, features, batch)
        shared, heatmaps = self.head(features)
        tasks = []
        for heatmap, regression, classes in zip(heatmaps, self.head.regressions, self.config.tasks, strict=True):
            cells = self._cells(batch, heatmap, classes)
            tasks.append(TaskMaps(heatmap, cells, regression(shared, cells)))
        return StudentOutput(tasks, strong, weak)

    def _cells(self, batch: Batch, heatmap: Tensor, classes: tuple[int, ...]) -> Cells:
        student, low = self.config.student, self.config.model.range_m
        if self.training:
            rows, columns = heatmap.shape[-2:]
            grid, reach = (rows, columns), student.regression_reach
            return batch.surroundings(low[:2], self.config.student_cell_m, grid, classes, reach)[0]
        return self.peak_cells(heatmap)

    def peak_cells(self, heatmap: Tensor) -> Cells:
        """The cells where boxes are regressed in inference: the best peaks of heatmap logits (B, T, H, W) of a task."""
        return peaks(heatmap, self.config.student.score_threshold, 2 * self.config.student.max_boxes)


class CenterDecoder:
    """Makes boxes from maps: 3x3 heatmap peaks per class, score threshold, NMS within the class (``student.nms``).

    Classes do not suppress each other: a bus of low score stays beside a truck of higher score at the same place, since
    average precision is computed per class.

    Args:
        config: range, thresholds and tasks of the student.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, tasks: list[TaskMaps]) -> list[Boxes3D]:
        """One ``Boxes3D`` per sample, sorted by falling score, with at most ``student.max_boxes`` boxes."""
        samples = tasks[0].heatmap.shape[0]
        parts: list[list[Boxes3D]] = [[] for _ in range(samples)]
        for classes, maps in zip(self.config.tasks, tasks, strict=True):
            for sample, boxes in enumerate(self._decode_task(maps, classes)):
                parts[sample].append(boxes)
        # NMS takes all tasks at once: it stops at ``student.max_boxes`` kept boxes and skips the many lower candidates.
        every, device = (Boxes3D.concatenate(p) for p in parts), tasks[0].heatmap.device
        return [boxes[suppress(boxes, self.config.student, device)] for boxes in every]

    def _decode_task(self, maps: TaskMaps, classes: tuple[int, ...]) -> list[Boxes3D]:
        student, cells = self.config.student, maps.cells
        scores = class_peaks(maps.heatmap)[cells.sample, :, cells.row, cells.column]  # (N, T)
        cell, slot = torch.nonzero(
            scores > student.score_threshold, as_tuple=True
        )  # a cell may be a peak of several classes
        score, label = scores[cell, slot], np.asarray(classes)[slot.cpu().numpy()]
        results = []
        for b in range(len(maps.heatmap)):
            mine = cells.sample[cell] == b
            results.append(self._boxes(maps, cell[mine], label[mine.cpu().numpy()], score[mine]))
        return results

    def _boxes(self, maps: TaskMaps, cell: Tensor, label: np.ndarray, score: Tensor) -> Boxes3D:
        corner = maps.cells.corners(self.config.model.range_m, self.config.student_cell_m)[cell]
        code = maps.regression[cell].float()
        box = decode(code, corner, self.config.student_cell_m)
        if self.config.student.heading == "direction":
            x, y = part(code, "direction").unbind(1)
            box = torch.cat([box[:, :6], torch.atan2(y, x)[:, None]], 1)
        rows = box.cpu().numpy()
        return Boxes3D.build(
            rows[:, :3],
            rows[:, 3:6],
            rows[:, 6],
            label,
            velocity_m_s=part(code, "velocity").cpu().numpy(),
            score=score.cpu().numpy(),
            source=SOURCE_PSEUDO,
        )
