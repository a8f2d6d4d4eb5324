"""The trainings of a run: the student that a teacher starts from, the crop branch, the teacher, the student arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdetr3d.data.loading.cbgs import class_balanced
from pdetr3d.data.loading.crops import Crops, crops_of
from pdetr3d.data.loading.record_list import Records
from pdetr3d.data.loading.records import prior_size_m
from pdetr3d.pipeline.arm_records import arm_records
from pdetr3d.pipeline.crop_labels import drawn_clicks, labeled_crops
from pdetr3d.pipeline.holdout import held_out
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.scoring import checkpoint_score
from pdetr3d.pipeline.training import AGAIN, CROPS, last_crops
from pdetr3d.training.plan import total_steps

SUFFIX = "_holdout"  # of the names of the stages that make the first teacher of ``label.holdout``


def learned(run: Run, suffix: str = "") -> Records:
    """The samples of the trainings of a teacher: all, or those that are not held out (with ``suffix``)."""
    return run.records.select(~held_out(run.records, run.config.label)) if suffix else run.records


def sizes(run: Run, suffix: str) -> dict[str, Any]:
    """Further arguments of ``Run.fit``: class sizes of the samples that are left, or the score of checkpoints."""
    if suffix:
        return {"prior": prior_size_m(learned(run, suffix), classes=run.config.classes)[0]}
    return {"score": checkpoint_score(run)}


def train_student(run: Run, arm: str) -> dict[str, Any]:
    """Train a student.

    Args:
        arm: "boxes_only"; "ours" (boxes and pseudo labels, guided by clicks); "full" (all boxes); or a rival without
            clicks: "self_training" (on its own labels), "mean_teacher" (on those of its moving average).

    Returns:
        As ``Run.fit``.
    """
    optim, student, mean_teacher = run.config.optim, run.config.student, arm == "mean_teacher"
    steps = total_steps(optim.epochs, run.labeled, optim.batch_size)
    records: Sequence = arm_records(run, arm)
    if student.cbgs and not mean_teacher:  # the records of mean_teacher are balanced already
        records = class_balanced(records, run.config.run.seed, run.config.classes)
    clicks, score = arm == "ours", checkpoint_score(run)
    return run.fit(f"student_{arm}", "student", records, steps, guidance=clicks, mean_teacher=mean_teacher, score=score)


def train_first_student(run: Run) -> dict[str, Any]:
    """Train the student that the first teacher of ``label.holdout`` starts from."""
    optim, records = run.config.optim, learned(run, SUFFIX)
    steps = total_steps(optim.epochs, run.labeled, optim.batch_size)
    return run.fit(f"student{SUFFIX}", "student", records.select(records.whole), steps, **sizes(run, SUFFIX))


def train_crops(run: Run, suffix: str = "", name: str = CROPS) -> dict[str, Any]:
    """Train the teacher's crop branch; with ``teacher.model=crop`` this is the teacher."""
    records = learned(run, suffix)
    mine = records.select(records.boxed)
    told = {} if name == CROPS and not suffix else sizes(run, suffix)  # the branch alone is not scored
    return run.fit(f"{name}{suffix}", CROPS, mine, crop_steps(run, mine), **told)


def train_crops_again(run: Run, suffix: str = "", name: str = AGAIN) -> dict[str, Any]:
    """Train the crop branch again, from its weights, on the human boxes and its own labels of clicks without a box."""
    config, records = run.config, learned(run, suffix)
    told = {} if name == AGAIN and not suffix else sizes(run, suffix)
    prior = told.get("prior", run.prior)
    mine, asked = records.select(records.boxed), drawn_clicks(records, config)
    first = run.checkpoints(f"{CROPS}{suffix}")[-1]
    crops = [crops_of(mine, config.data, prior, cameras=config.teacher.has_pictures)]
    if len(asked):
        crops.append(labeled_crops(asked, first, config, prior))
    steps = again_steps(run, mine)
    return run.fit(f"{name}{suffix}", CROPS, mine, steps, crop_init=first, crops=Crops.concatenate(crops), **told)


def train_teacher(run: Run, suffix: str = "") -> dict[str, Any]:
    """Train a teacher on the box-labeled samples."""
    teacher = run.config.teacher
    if teacher.model == "crop":
        return (train_crops_again if teacher.crop_self_labels else train_crops)(run, suffix, "teacher")
    records = learned(run, suffix)
    mine = records.select(records.boxed)
    first = f"student{suffix or '_boxes_only'}" if teacher.lidar_init == "boxes_only" else ""
    return run.fit(
        f"teacher{suffix}",
        "teacher",
        mine,
        total_steps(teacher.optim.epochs, len(mine), teacher.optim.batch_size),
        lidar_init=run.checkpoints(first)[-1] if first else None,
        crop_init=run.checkpoints(f"{last_crops(teacher)}{suffix}")[-1] if teacher.has_crops else None,
        **sizes(run, suffix),
    )


def planned_steps(run: Run, arms: Sequence[str]) -> dict[str, int]:
    """Stage -> optimizer steps of the trainings that a pipeline still has to do, without ``label.holdout``'s."""
    teacher, optim, labels = run.config.teacher, run.config.optim, run.records.select(run.records.boxed)
    wanted = [*arms, *(["boxes_only"] if teacher.lidar_init == "boxes_only" and run.to_label else [])]
    steps = {f"student_{arm}": total_steps(optim.epochs, run.labeled, optim.batch_size) for arm in wanted}
    if run.to_label and teacher.has_crops and teacher.model != "crop":
        steps[CROPS] = crop_steps(run, labels)
        if teacher.crop_self_labels:
            steps[AGAIN] = again_steps(run, labels)
    if run.to_label and teacher.model != "crop":
        steps["teacher"] = total_steps(teacher.optim.epochs, len(labels), teacher.optim.batch_size)
    return {stage: count for stage, count in steps.items() if run.result(stage) is None}


def crop_steps(run: Run, records: Records) -> int:
    """The number of optimizer steps of a crop branch's training on these records. Its samples are clicks."""
    optim = run.config.teacher.crop_optim
    clicks = sum(int((record.clicks.box_index >= 0).sum()) for record in records)
    return total_steps(optim.epochs, clicks, optim.batch_size)


def again_steps(run: Run, records: Records) -> int:
    """The number of optimizer steps of a crop branch's second training: half of those of the first."""
    return max(1, crop_steps(run, records) // 2)
