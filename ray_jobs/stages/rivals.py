"""The records of the arms that learn from point-labeled samples without their clicks: what the clicks are worth."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pdetr3d.data.labels.self_labels import (
    half_labeled,
    read_self_labels,
    self_labeled,
    without_clicks,
    write_self_labels,
)
from pdetr3d.data.loading.cbgs import class_balanced
from pdetr3d.schema import BOXES_KNOWN, SampleRecord
from ray_jobs.plug.inference import predict

if TYPE_CHECKING:
    from ray_jobs.stages.stages import Stages


def self_training_records(stages: Stages) -> list[SampleRecord]:
    """Every train sample (unlabeled ones, too) with its human boxes or the boxes-only student's, without clicks."""
    return self_labeled(stages.records, read_self_labels(_self_labels(stages), stages.config.classes))


def _self_labels(stages: Stages) -> Path:
    """The table of the boxes-only student's confident boxes; made (after that student) where it is not there yet."""
    file = stages.run.path / "self_training" / "self_labels.parquet"
    batches = file.with_name("batches")
    if stages.run.result("self_training") is None:
        student = stages.student("boxes_only")[-1]
        began = time.monotonic()
        records = without_clicks([r for r in stages.records if r.role not in BOXES_KNOWN])
        boxes = predict("student", stages.config, stages.prior, [student], records, batches)[0] if records else {}
        count = write_self_labels(file, boxes, stages.config.student.self_training_threshold, stages.config.classes)
        stages.timing["self_training"] = time.monotonic() - began
        stages.run.finish("self_training", {"boxes": count, "samples": len(records)})
    shutil.rmtree(batches, ignore_errors=True)  # only now: a job killed before predicts none of them again
    return file


def mean_teacher_records(stages: Stages) -> list[SampleRecord]:
    """As many samples with all their boxes as others (unlabeled ones, too), some repeated, without clicks;
    ``student.cbgs`` for the former."""
    records = without_clicks(stages.records)
    labeled: Sequence[SampleRecord] = [r for r in records if r.role in BOXES_KNOWN]
    if stages.config.student.cbgs:
        labeled = class_balanced(labeled, stages.config.run.seed, stages.config.classes)
    return half_labeled(labeled, [r for r in records if r.role not in BOXES_KNOWN])


RIVALS = {"self_training": self_training_records, "mean_teacher": mean_teacher_records}
