"""The trainings that make a teacher: the student that its LiDAR encoder starts from, its crop branch, the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.loading.record_list import Records
from pdetr3d.training.plan import total_steps
from ray_jobs.plug.fit import CROPS

if TYPE_CHECKING:
    from ray_jobs.stages.stages import Stages


def train_teacher(stages: Stages, records: Records, suffix: str = "", prior: NDArray[np.float32] | None = None) -> Path:
    """Train a teacher on the box-labeled ones of ``records``, after what it starts from; returns its checkpoint.

    Args:
        suffix: of the names of its stages; with one, the student it starts from is trained on these records, too.
        prior: see ``Stages.fit_stage``.
    """
    teacher, optim, student, crops = stages.config.teacher, stages.config.optim, None, None
    mine = records.select(records.boxed)
    if teacher.model == "crop":
        return _train_crops(stages, f"teacher{suffix}", mine, prior)
    if teacher.lidar_init == "boxes_only" and suffix:
        steps = total_steps(optim.epochs, stages.labeled, optim.batch_size)
        whole = records.select(records.whole)
        student = stages.fit_stage(f"student{suffix}", "student", whole, steps, guidance=False, prior=prior)[-1]
    elif teacher.lidar_init == "boxes_only":
        student = stages.student("boxes_only")[-1]
    if teacher.has_crops:
        crops = _train_crops(stages, f"{CROPS}{suffix}", mine, prior)
    steps = total_steps(teacher.optim.epochs, len(mine), teacher.optim.batch_size)
    files = stages.fit_stage(
        f"teacher{suffix}",
        "teacher",
        mine,
        steps,
        guidance=False,
        lidar_init=student,
        crop_init=crops,
        prior=prior,
    )
    return files[-1]


def planned_steps(stages: Stages, arms: Sequence[str]) -> dict[str, int]:
    """Stage -> its optimizer steps, of what ``Stages.train`` is to train for these arms (without a held-out part's)."""
    teacher, optim, labels = stages.config.teacher, stages.config.optim, stages.records.select(stages.records.boxed)
    wanted = [*arms, *(["boxes_only"] if teacher.lidar_init == "boxes_only" and stages.to_label else [])]
    steps = {f"student_{arm}": total_steps(optim.epochs, stages.labeled, optim.batch_size) for arm in wanted}
    if stages.to_label and teacher.has_crops and teacher.model != "crop":
        steps[CROPS] = crop_steps(stages, labels)
    if stages.to_label and teacher.model != "crop":
        steps["teacher"] = total_steps(teacher.optim.epochs, len(labels), teacher.optim.batch_size)
    return {stage: count for stage, count in steps.items() if stages.run.result(stage) is None}


def crop_steps(stages: Stages, records: Records) -> int:
    """Optimizer steps of a crop branch's whole training on these records; a sample of it is a click."""
    optim = stages.config.teacher.crop_optim
    clicks = sum(int((record.clicks.box_index >= 0).sum()) for record in records)
    return total_steps(optim.epochs, clicks, optim.batch_size)


def _train_crops(stages: Stages, name: str, records: Records, prior: NDArray[np.float32] | None) -> Path:
    """Train the teacher's crop branch, as the stage ``name``; returns its checkpoint."""
    steps = crop_steps(stages, records)
    return stages.fit_stage(name, "crops", records, steps, guidance=False, prior=prior)[-1]
