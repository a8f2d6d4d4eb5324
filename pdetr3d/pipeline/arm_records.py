"""The records that each arm of a run is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pdetr3d.data.label_manifest import training_records
from pdetr3d.data.labels.self_labels import half_labeled, read_self_labels, self_labeled, without_clicks
from pdetr3d.data.loading.cbgs import class_balanced
from pdetr3d.pipeline.arms import check_arms
from pdetr3d.pipeline.run import Run
from pdetr3d.schema import BOXES_KNOWN, DataError, SampleRecord


def arm_records(run: Run, arm: str) -> Sequence[SampleRecord]:
    """The records that a student is trained on (``trainings.train_student`` says what arms there are).

    Raises:
        DataError: when boxes that it needs are not known, or pseudo labels are missing.
    """
    if arm == "boxes_only":
        return run.records.select(run.records.whole)
    if arm == "full":
        check_arms([arm], run.data, run.config)
        return run.known_records
    if arm == "self_training":
        return self_labeled(run.records, read_self_labels(self_labels_file(run), run.config.classes))
    if arm == "mean_teacher":
        return mean_teacher_records(run)
    if not run.pseudo_file.exists():
        raise DataError(f"{run.pseudo_file} is missing: run python -m ray_jobs.pseudo_label with this --run-dir first")
    everywhere = run.config.label.pseudo_for == "all"
    records = run.kept(
        training_records(
            run.data.index,
            run.data.manifest,
            run.pseudo_file,
            pseudo_everywhere=everywhere,
            direction_share=run.config.student.direction_share,
        )
    )
    return records.select(records.labeled)  # unlabeled samples may show objects, so they are no background


def self_labels_file(run: Run) -> Path:
    """The path of the table of the boxes-only student's own labels."""
    return run.path / "self_training" / "self_labels.parquet"


def mean_teacher_records(run: Run) -> list[SampleRecord]:
    """The records of arm "mean_teacher", without clicks: half of them have all their boxes, the others have none.

    Records of the smaller half are repeated. ``student.cbgs`` balances the classes of the half with boxes.
    """
    records = without_clicks(run.records)
    labeled: Sequence[SampleRecord] = [r for r in records if r.role in BOXES_KNOWN]
    if run.config.student.cbgs:
        labeled = class_balanced(labeled, run.config.run.seed, run.config.classes)
    return half_labeled(labeled, [r for r in records if r.role not in BOXES_KNOWN])
