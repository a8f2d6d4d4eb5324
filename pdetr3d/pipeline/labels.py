"""Labels made by models: pseudo labels at clicks, their quality on held-out scenes, a student's own boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pdetr3d.data.labels.self_labels import without_clicks, write_self_labels
from pdetr3d.data.loading.record_list import Joined, Records
from pdetr3d.data.loading.records import prior_size_m
from pdetr3d.data.storage.files import file_digest, parquet_digest
from pdetr3d.pipeline.arm_records import self_labels_file
from pdetr3d.pipeline.holdout import held_out
from pdetr3d.pipeline.labeling import write_labels
from pdetr3d.pipeline.lineage import recall, remember, trained_in
from pdetr3d.pipeline.quality import KnownClicks, floors
from pdetr3d.pipeline.run import Run
from pdetr3d.pseudo_labels import FLOORS, pseudo_label_rows
from pdetr3d.schema import BOXES_KNOWN, Boxes3D, SampleRecord


def make_pseudo_labels(run: Run) -> dict[str, Any]:
    """Turn every click of the point-labeled samples into a box; returns the quality report.

    Predictions are kept in a folder until the stage is finished: a job that is killed before predicts none again.
    """
    records = run.to_label
    if not records:
        _write_labels(run, records, {})
        nothing = run.known_clicks([]).quality({})
        return {**dict.fromkeys(("teacher", *FLOORS), nothing), "clicks": 0, "accepted": 0}
    teacher = run.checkpoints("teacher")[-1]
    shown, others = run.observer.clicked(run, records)
    run.observer.say(f"pseudo labels begin: {len(records)} samples")
    asked, batches = Joined(records, others), run.pseudo_file.with_name("batches")
    boxes = run.runner.predict("teacher", run.config, run.prior, [teacher], asked, batches)[0]
    clicks, accepted = _write_labels(run, records, boxes)
    known, made = recall(run.path / "teacher"), parquet_digest(run.pseudo_file)
    parent = {"teacher_run_id": known.get("run_id", ""), "teacher_checkpoint": file_digest(teacher)}
    remember(run.pseudo_file.parent, pseudo_labels=made, **parent)
    report = {**quality_at_clicks(run, records, boxes), "clicks": clicks, "accepted": accepted}
    pictures = [(record, boxes[record.sample_token]) for record in shown]
    where, floor = f"clicks of point-labeled {run.config.data.train_split}", report[FLOORS[0]]["bev_iou"]
    run.observer.evaluated(run, "teacher", teacher, report["teacher"], "point_labeled", where, pictures, floor=floor)
    return report


def quality_at_clicks(run: Run, records: Records, boxes: Mapping[str, Boxes3D]) -> dict[str, Any]:
    """Teacher and floors against the true boxes of the clicks."""
    with run.observer.phase("score"):
        known = run.known_clicks(records)
        return {"teacher": known.quality(boxes), **floors(known, run.config, run.prior, run.runner)}


def _write_labels(run: Run, records: Records, boxes: Mapping[str, Boxes3D]) -> tuple[int, int]:
    """``pseudo_file`` of boxes at the records' clicks; how many rows, and how many accepted."""
    config, teacher = run.config, trained_in(run.path, "teacher", run.dir.digest)

    def rows_of(some: list[SampleRecord], theirs: list[Boxes3D]) -> pd.DataFrame:
        return pseudo_label_rows(
            some, theirs, run.prior, teacher, config.model.range_m, snap=config.label.snap, classes=config.classes
        )

    return write_labels(run.pseudo_file, records, boxes, rows_of, run.data.manifest.track_of, config.classes)


def measure_holdout(run: Run) -> dict[str, Any]:
    """Measure a teacher on held-out box-labeled scenes, because the true boxes of people's clicks are not known.

    The first teacher is trained without these scenes. Its boxes at their simulated clicks are compared with the true
    boxes.

    Returns:
        ``{"teacher": quality, **floors, "samples": held out, "trained_on": box-labeled samples left}``.
    """
    config, out = run.config, held_out(run.records, run.config.label)
    left, held = run.records.select(~out), run.records.select(out & run.records.boxed & run.records.clicked)
    prior = prior_size_m(left, classes=config.classes)[0]
    known = KnownClicks(held, classes=config.classes)
    boxes = run.runner.predict("teacher", config, prior, [run.checkpoints("teacher_holdout")[-1]], held)[0]
    report = {"teacher": known.quality(boxes), **floors(known, config, prior, run.runner)}
    return {**report, "samples": len(held), "trained_on": int(left.boxed.sum())}


def make_self_labels(run: Run) -> dict[str, Any]:
    """The table of the boxes-only student's confident boxes in point-labeled samples."""
    config, file = run.config, self_labels_file(run)
    student = run.checkpoints("student_boxes_only")[-1]
    records = without_clicks([r for r in run.records if r.role not in BOXES_KNOWN])
    boxes: Mapping[str, Boxes3D] = {}
    if records:
        boxes = run.runner.predict("student", config, run.prior, [student], records, file.with_name("batches"))[0]
    count = write_self_labels(file, boxes, config.student.self_training_threshold, config.classes)
    return {"boxes": count, "samples": len(records)}
