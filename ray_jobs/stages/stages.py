"""The stages of a run, each finished once per run directory: teacher, pseudo labels, student arms."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pdetr3d.config import Config
from pdetr3d.data.augmentation.gt_sampling import database_of
from pdetr3d.data.label_manifest import inspection_records, prior_size_m, training_records
from pdetr3d.data.loading.cbgs import class_balanced
from pdetr3d.data.loading.crops import crops_of
from pdetr3d.data.loading.record_list import Joined, Records, boxed, pick
from pdetr3d.data.loading.skipped import FILE as SKIPPED
from pdetr3d.data.loading.skipped import without
from pdetr3d.pseudo_labels import FLOORS, pseudo_label_rows
from pdetr3d.schema import Boxes3D, DataError, SampleRecord
from pdetr3d.tracking.runs import Tracker
from pdetr3d.tracking.system import system_metrics
from pdetr3d.training.build import check_models
from pdetr3d.training.label_source import typical_sizes
from pdetr3d.training.plan import total_steps
from pdetr3d.training.run_dir import Data, RunDir, copy_missing, prepare
from ray_jobs.plug.context import STATS
from ray_jobs.plug.fit import Stage, fit
from ray_jobs.plug.inference import predict
from ray_jobs.plug.lanes import run_lanes
from ray_jobs.stages.arm_records import arm_records
from ray_jobs.stages.arms import ARMS
from ray_jobs.stages.holdout import held_out, measure_holdout
from ray_jobs.stages.labeling import write_labels
from ray_jobs.stages.pictures import clicked_pictures
from ray_jobs.stages.quality import KnownClicks, floors
from ray_jobs.stages.scoring import checkpoint_score
from ray_jobs.stages.teacher_stages import train_teacher
from ray_jobs.stages.tracked import (
    ancestors,
    changed,
    evaluated,
    labels_made,
    left_out,
    trained_in,
    training_begins,
    training_ends,
)
from ray_jobs.terminal.console import say, warn
from ray_jobs.terminal.phases import PHASES

EXPERIMENT = "pdetr3d"


class Stages:
    """Runs stages of one run directory in order, skipping finished ones.

    Args:
        run: the run directory. parent: MLflow run that the stages' runs are nested in; None: ``track`` says it later,
            so that no run is begun for input that is refused here.
        tracking_dir: where the MLflow store is; None: in the run directory. like: see ``prepare``.

    Attributes:
        observe: when set, called with stage, step, and scores on ``data.select_split`` of each kept checkpoint, while
            its training goes on.
    """

    def __init__(
        self,
        run: RunDir,
        parent: Tracker | None = None,
        tracking_dir: Path | None = None,
        like: RunDir | None = None,
    ) -> None:
        self.run, self.parent, self.tracking_dir = run, Tracker("", "", None), tracking_dir or run.path
        self.config: Config = run.config
        self.observe: Callable[[str, int, dict[str, Any]], None] | None = None
        self.data: Data = prepare(run, like)
        if parent is not None:
            self.track(parent)
        self.records = self.kept(training_records(self.data.index, self.data.manifest))
        if not self.records.boxed.any():
            raise DataError(
                f"{self.run.path}: all box-labeled samples read broken files (see data/{SKIPPED} there) and are left "
                "out by data.on_error=skip; copy the files again, or choose others with label.seed or label.ratio"
            )
        held_out(self.records, self.config.label)  # refused now, if it cannot be
        self.prior, self.absent_classes = prior_size_m(self.records, self.config.data, classes=self.config.classes)
        check_models(self.config, self.prior)
        if like is None and (told := typical_sizes(self.data.manifest, self.absent_classes, self.config.classes)):
            warn(told)
        self.timing: dict[str, float] = {}
        self.locks: dict[str, Lock] = defaultdict(Lock)  # a stage that two lanes need is run once

    def track(self, parent: Tracker) -> None:
        """From now on stages' runs are nested in this MLflow run."""
        self.parent = parent
        left_out(self)

    def train(self, arms: Sequence[str]) -> None:
        """Teacher, pseudo labels and the students of ``arms``; ``scaling.concurrent_stages`` of them at once."""

        def from_clicks() -> None:
            self.labels()
            if "ours" in arms:
                self.student("ours")

        others: list[Callable[[], object]] = [partial(self.student, arm) for arm in ARMS[:-1] if arm in arms]
        run_lanes([from_clicks, *others], self.config.scaling.concurrent_stages)

    def lineage(self) -> dict[str, str]:
        """Digests of what every stage depends on."""
        data = self.data
        return {"run": self.run.digest, "index": data.digest, "manifest": data.manifest.digest}

    def teacher(self) -> Path:
        """Train the teacher on the box-labeled samples, after the first teacher of ``label.holdout``; returns its
        checkpoint."""
        measure_holdout(self)
        return train_teacher(self, self.records)

    def pseudo_labels(self) -> dict[str, Any]:
        """Turn every click of the point-labeled samples into a box; returns the quality report."""
        batches = self.pseudo_file.with_name("batches")
        done = self.run.result("pseudo_labels") or self._make_labels(batches)
        shutil.rmtree(batches, ignore_errors=True)  # only now: a job killed before predicts none of them again
        return done

    def _make_labels(self, batches: Path) -> dict[str, Any]:
        """Body of ``pseudo_labels``. ``batches``: folder of predictions, kept until the stage is finished."""
        began, records = time.monotonic(), self.to_label
        if not records:
            self._write_labels(records, {})
            nothing = self.known_clicks([]).quality({})
            return self.run.finish(
                "pseudo_labels", {**dict.fromkeys(("teacher", *FLOORS), nothing), "clicks": 0, "accepted": 0}
            )
        teacher = self.checkpoints("teacher")[-1]
        shown, others = clicked_pictures(self, records)  # for pictures alone: of the val split
        say(f"pseudo labels begin: {len(records)} samples")
        boxes = predict("teacher", self.config, self.prior, [teacher], Joined(records, others), batches)[0]
        clicks, accepted = self._write_labels(records, boxes)
        labels_made(self, teacher)
        report = {**self._quality(records, boxes), "clicks": clicks, "accepted": accepted}
        pictures = [(record, boxes[record.sample_token]) for record in shown]
        where = f"clicks of point-labeled {self.config.data.train_split}"
        floor = report[FLOORS[0]]["bev_iou"]
        evaluated(self, "teacher", teacher, report["teacher"], "point_labeled", where, pictures, floor=floor)
        self.timing["pseudo_labels"] = time.monotonic() - began
        return self.run.finish("pseudo_labels", report)

    @property
    def labeled(self) -> int:
        """How many samples people labeled, boxes, clicks or "empty": students' epochs count these."""
        return int(self.records.labeled.sum())

    @property
    def to_label(self) -> Records:
        """The samples whose clicks get pseudo labels."""
        everywhere = self.config.label.pseudo_for == "all"
        return self.records.select(self.records.clicked & (everywhere | ~self.records.boxed))

    def labels(self) -> None:
        """The teacher, then its pseudo labels; no teacher where there is no click to label, or labels were taken over
        without theirs."""
        taken_over = self.run.result("pseudo_labels") is not None and self.run.result("teacher") is None
        if self.to_label and not taken_over:
            self.teacher()
        self.pseudo_labels()

    def adopt(self, stage: str, other: RunDir) -> None:
        """Take over a finished stage; that the runs do not differ in what it depends on is for the caller to know."""
        result = other.result(stage)
        if result is None:
            raise ValueError(f"{other.path / stage} is not finished")
        if self.run.result(stage) is None:
            files = [f.name for f in (other.path / stage).iterdir() if f.is_file() and f.name != "done.json"]
            copy_missing(other.path / stage, self.run.path / stage, files)
            self.run.finish(stage, result)

    def _write_labels(self, records: Records, boxes: Mapping[str, Boxes3D]) -> tuple[int, int]:
        """``pseudo_file`` of boxes at the records' clicks; how many rows, and how many accepted."""
        teacher, label = trained_in(self, "teacher"), self.config.label

        def rows_of(some: list[SampleRecord], theirs: list[Boxes3D]) -> pd.DataFrame:
            config = self.config
            return pseudo_label_rows(
                some, theirs, self.prior, teacher, config.model.range_m, snap=label.snap, classes=config.classes
            )

        return write_labels(self.pseudo_file, records, boxes, rows_of, self.data.manifest.track_of, self.config.classes)

    @property
    def pseudo_file(self) -> Path:
        """pseudo_labels.parquet of this run."""
        return self.run.path / "pseudo_labels" / "pseudo_labels.parquet"

    @cached_property
    def known_records(self) -> Records:
        """Every train sample with all the boxes in the tables: for reports, and the arm that is trained on them."""
        return self.kept(training_records(self.data.index, self.data.manifest, boxes_everywhere=True))

    def kept(self, records: Records) -> Records:
        """Without what is left out for its broken files."""
        return without(records, self.data.skipped)

    def known_clicks(self, records: Sequence[SampleRecord]) -> KnownClicks:
        """The true boxes of the records' clicks, for reports only."""
        index, manifest = self.data.index, self.data.manifest

        def known(piece: list[SampleRecord]) -> list[SampleRecord]:
            return inspection_records(index, [r.sample_token for r in piece], manifest)

        return KnownClicks(records, known, classes=self.config.classes)

    @PHASES.of("score")
    def _quality(self, records: Sequence[SampleRecord], boxes: Mapping[str, Boxes3D]) -> dict[str, Any]:
        """Teacher and floors against the true boxes of the clicks."""
        known = self.known_clicks(records)
        return {"teacher": known.quality(boxes), **floors(known, self.config, self.prior)}

    def student(self, arm: str) -> list[Path]:
        """Train one arm: "boxes_only", "ours" (boxes + pseudo labels, guided by clicks), "full" (all boxes), or a rival
        without clicks: "self_training" (on its own labels), "mean_teacher" (on those of its moving average)."""
        steps = total_steps(self.config.optim.epochs, self.labeled, self.config.optim.batch_size)
        records = arm_records(self, arm)
        mean_teacher = arm == "mean_teacher"
        if self.config.student.cbgs and not mean_teacher:  # that one's records are balanced already
            records = class_balanced(records, self.config.run.seed, self.config.classes)
        return self.fit_stage(
            f"student_{arm}", "student", records, steps, guidance=arm == "ours", mean_teacher=mean_teacher
        )

    def gt_database(self, records: Sequence[SampleRecord], folder: str = "gt_database") -> Path:
        """File of the objects that GT sampling may paste into these records, made when missing."""
        with self.locks[folder]:
            return database_of(self.run.path / folder, records, self.config)

    def fit_stage(
        self,
        name: str,
        kind: str,
        records: Sequence[SampleRecord],
        steps: int,
        *,
        guidance: bool,
        lidar_init: Path | None = None,
        crop_init: Path | None = None,
        mean_teacher: bool = False,
        prior: NDArray[np.float32] | None = None,
    ) -> list[Path]:
        """Train a stage once per run; returns its kept checkpoints, oldest first.

        Args:
            name: folder in the run directory. kind: "teacher" or "student". prior: class sizes (10, 3) [m] of another
                set of box-labeled samples than the run's; such a stage is scored by who asked for it.
        """
        with self.locks[name]:
            if self.run.result(name) is not None:
                if name not in self.timing:  # not trained, nor asked for, in this process
                    print(f"{name}: finished before, nothing to do", flush=True)
                    self.timing[name] = 0.0
                return self.checkpoints(name)
            began = time.monotonic()
            if self.config.student.box_share:
                records = pick(records, np.argsort(~boxed(records), kind="stable"))  # box-labeled ones first
            pastes = kind == "student" and self.config.student.gt_sampling
            pasted_from = "gt_database" if prior is None else f"gt_database_{name}"
            sizes = self.prior if prior is None else prior
            tags = {
                **self.lineage(),
                "stage": name,
                "label_ratio": self.data.manifest.achieved_ratio,
                "samples": len(records),
                **ancestors(self, name),
            }
            with self.tracker(name, tags) as tracker, system_metrics(tracker):
                training_begins(self, tracker)
                tracking = (tracker.uri, tracker.run_id) if tracker.run_id else None
                work = Stage(
                    name,
                    kind,
                    self.config,
                    records,
                    sizes,
                    steps,
                    guidance,
                    tracking,
                    lidar_init,
                    identity=self.run.digest,
                    gt_database=self.gt_database(records, pasted_from) if pastes else None,
                    mean_teacher=mean_teacher,
                    crop_init=crop_init,
                    crops=crops_of(
                        records,
                        self.config.data,
                        self.prior if prior is None else prior,
                        cameras=self.config.teacher.has_pictures,
                    )
                    if kind == "crops"
                    else None,
                )
                files = fit(work, self.run.path, checkpoint_score(self, work, tracker) if prior is None else None)
                training_ends(self, tracker, name, files[-1])
                if (stats := self.run.path / name / STATS).exists():
                    tracker.log_artifact(stats)
            self.timing[name] = time.monotonic() - began
            self.run.finish(name, {"checkpoints": [f.name for f in files], "steps": steps, "samples": len(records)})
            return files

    def tracker(self, name: str, tags: dict[str, Any]) -> Tracker:
        """The MLflow run of a stage: started, or continued."""
        return Tracker.start(
            self.run.path,
            EXPERIMENT,
            name,
            self.config.flat(),
            {"changed": changed(self.config), **tags},
            self.parent.run_id or None,
            tracking_dir=self.tracking_dir,
            title=f"{name} {self.config.run.name}".strip(),  # else all are alike in a search
        )

    def checkpoints(self, name: str) -> list[Path]:
        """Kept checkpoints of a finished training stage, oldest first."""
        done = self.run.result(name)
        if done is None or "checkpoints" not in done:
            raise DataError(f"{self.run.path / name} is not trained: run its training job with this --run-dir first")
        return [self.run.path / name / file for file in done["checkpoints"]]
