"""Trains the baseline without clicks: mean teacher (Tarvainen & Valpola 2017; hard labels: Unbiased Teacher, 2021).

The teacher is the moving average of the student's weights. At each step it sees the weak view of the point-labeled
samples, which is the cloud before augmentation. Its boxes above ``student.mean_teacher_threshold``, moved by the
augmentation, are the targets of the student's strong view. Box-labeled samples are supervised as usual. A point-labeled
sample without such a box gives no loss, not even for background. The weight of the other point-labeled samples rises
over ``student.mean_teacher_warmup``, because an early teacher misses objects, which would be trained as background.

Legend: B samples, N boxes (padded).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.batch import Batch, Cells, RankMean, StudentOutput, TaskMaps
from pdetr3d.config import Config
from pdetr3d.data.augmentation.augment import move_boxes
from pdetr3d.losses.center_criterion import CenterCriterion
from pdetr3d.losses.point_guided import ramp_of
from pdetr3d.schema import SOURCE_PSEUDO, Boxes3D


class MeanTeacher:
    """The targets and losses of a student that a mean teacher trains.

    Args:
        config: gives the threshold and weights of ``student.mean_teacher_*``.
        predict: (student output, batch) -> one Boxes3D per sample.
    """

    def __init__(self, config: Config, predict: Callable[[object, Batch], list[Boxes3D]]) -> None:
        self.config, self.predict, self.ramp = config, predict, 1.0

    def before_step(self, step: int, steps: int) -> None:
        """Set the weight of the losses on point-labeled samples for step ``step``, 0 .. ``steps`` - 1."""
        self.ramp = ramp_of(self.config.student.mean_teacher_warmup, step / steps)

    @torch.no_grad()
    def teach(self, average: nn.Module, batch: Batch) -> Batch:
        """Give the point-labeled samples the teacher's boxes, in the frame of the strong view.

        Args:
            average: the teacher, in evaluation mode. batch: has a weak view.

        Returns:
            The batch with these boxes and without the weak view, which the student does not need.
        """
        todo = batch.select(~batch.box_labeled)
        found: list[Boxes3D] = []
        if len(todo):
            todo = replace(todo, points=todo.weak_points, point_sample=todo.weak_point_sample)
            for boxes, matrix in zip(self.predict(average(todo), todo), _matrices(todo), strict=True):
                sure = boxes[boxes.score > self.config.student.mean_teacher_threshold]
                found.append(move_boxes(sure, matrix))
        batch = replace(batch, weak_points=batch.weak_points[:0], weak_point_sample=batch.weak_point_sample[:0])
        return with_boxes(batch, torch.nonzero(~batch.box_labeled).flatten().tolist(), found)

    def losses(self, output: object, batch: Batch, rank_mean: RankMean) -> dict[str, Tensor]:
        """The student's loss terms, scalars: those of the box-labeled samples, and "unlabeled_...", the weighted terms
        of the point-labeled samples in which ``teach`` found boxes."""
        assert isinstance(output, StudentOutput)
        criterion, taught = CenterCriterion(self.config, rank_mean), ~batch.box_labeled & batch.box_valid.any(1)
        terms = criterion(select_tasks(output.tasks, batch.box_labeled), batch.select(batch.box_labeled))
        extra = criterion(select_tasks(output.tasks, taught), batch.select(taught))
        weight = self.config.student.mean_teacher_weight * self.ramp
        return terms | {f"unlabeled_{name}": weight * value for name, value in extra.items()}


def _matrices(batch: Batch) -> np.ndarray:
    """(B, 4, 4) float64: the augmentation of each sample."""
    return batch.augmentation.double().cpu().numpy()


def with_boxes(batch: Batch, samples: Sequence[int], boxes: Sequence[Boxes3D]) -> Batch:
    """Replace the boxes of some samples; their velocity becomes NaN (unknown) and their source SOURCE_PSEUDO.

    Args:
        samples: positions in the batch. boxes: ``boxes[i]`` replaces those of sample ``samples[i]``; the same frame as
            the batch's points.
    """
    more = max(0, max((len(b) for b in boxes), default=0) - batch.box.shape[1])
    box, velocity = F.pad(batch.box, (0, 0, 0, more)), F.pad(batch.velocity, (0, 0, 0, more), value=torch.nan)
    names = ("box_label", "box_score", "box_direction", "box_source", "box_valid")
    label, score, direction, source, valid = (F.pad(getattr(batch, name), (0, more)) for name in names)
    for sample, mine in zip(samples, boxes, strict=True):
        count = len(mine)
        box[sample, :count] = torch.from_numpy(mine.rows).to(box)
        label[sample, :count] = torch.from_numpy(mine.label).to(label)
        score[sample, :count] = torch.from_numpy(mine.score).to(score)
        direction[sample, :count] = torch.from_numpy(mine.direction).to(direction)
        source[sample, :count] = SOURCE_PSEUDO
        velocity[sample] = torch.nan
        valid[sample] = torch.arange(len(valid[sample]), device=valid.device) < count
    return replace(
        batch,
        box=box,
        velocity=velocity,
        box_label=label,
        box_score=score,
        box_direction=direction,
        box_source=source,
        box_valid=valid,
    )


def select_tasks(tasks: Sequence[TaskMaps], keep: Tensor) -> list[TaskMaps]:
    """The maps of the samples where ``keep``, (B,) bool, is true; the order of their cells does not change."""
    place, chosen = keep.cumsum(0) - 1, []
    for maps in tasks:
        cells, mine = maps.cells, keep[maps.cells.sample]
        kept = Cells(place[cells.sample[mine]], cells.row[mine], cells.column[mine])
        chosen.append(TaskMaps(maps.heatmap[keep], kept, maps.regression[mine]))
    return chosen
