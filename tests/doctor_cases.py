"""Makes run directories without training, with the jobs' own writers, in which tests plant faults."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pdetr3d import presets
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.labels.manifest import build_manifest
from pdetr3d.data.labels.pseudo_table import write_pseudo_labels
from pdetr3d.data.loading.records import inspection_records, prior_size_m, training_records
from pdetr3d.evaluation.pseudo_label_quality import bev_iou, pseudo_label_quality
from pdetr3d.pseudo_labels import class_mean_boxes, to_pseudo_labels
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir, prepare

CURVES = {  # of students "ours": losses, times and features as in a quickstart
    "loss": [8.66, 5.96, 5.19, 4.78, 4.66, 4.49],
    "feature_std": [0.6, 0.5, 0.45, 0.42, 0.41, 0.40],
    "data_s": [0.115, 0.00174, 0.00174, 0.00232, 0.0017, 0.00193],
    "step_s": [0.465, 0.294, 0.261, 0.267, 0.274, 0.286],
}


class PlantedRun:
    """A run directory on the tests' world, with the true boxes and floors of its point-labeled clicks.

    Args:
        folder: a new one, or a copy of another run's. overrides: of the quickstart preset.

    Attributes:
        records: the point-labeled samples with their clicks and all true boxes. truth: the box of every click.
    """

    def __init__(self, folder: Path, dataroot: Path, *overrides: str) -> None:
        self.dataroot, self.overrides = dataroot, overrides
        keys = [f"data.dataroot={dataroot}", "label.ratio=0.3", *overrides]
        self.run = RunDir(folder, presets.load("quickstart", keys))
        self.data = prepare(self.run)
        manifest = self.data.manifest
        point = [token for token, role in manifest.roles.items() if role == "point"]
        self.prior = prior_size_m(training_records(self.data.index, manifest), classes=NUSCENES_CLASSES)[0]
        self._measure_at(inspection_records(self.data.index, point, manifest))

    def _measure_at(self, records: list[SampleRecord]) -> None:
        self.records = records
        self.truth = Boxes3D.concatenate([r.boxes[r.clicks.box_index] for r in self.records])
        self.floor = Boxes3D.concatenate([class_mean_boxes(r.clicks, self.prior) for r in self.records])

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.path

    def on_val(self, folder: Path) -> PlantedRun:
        """A copy with the records of the val split and the clicks that ``teacher_scores`` draws there, as in trials of
        searches and in train_teacher; it has no pseudo labels."""
        run, config = self.copy(folder), self.run.config
        shutil.rmtree(run.path / "pseudo_labels", ignore_errors=True)
        place = run.path / "data" / f"manifest_{config.data.val_split}"
        manifest = build_manifest(run.data.index, config.data.val_split, config.label.everywhere, place)
        run._measure_at(inspection_records(run.data.index, list(manifest.roles), manifest))
        return run

    def copy(self, folder: Path) -> PlantedRun:
        """A copy of the run."""
        shutil.copytree(self.path, folder)
        return PlantedRun(folder, self.dataroot, *self.overrides)

    def good_boxes(self, yaw_error_rad: float = 0.1) -> Boxes3D:
        """Boxes of a good teacher: with small errors, larger in every other box, and scores that fit the errors."""
        size = self.truth.size_m * np.where(np.arange(len(self.truth)) % 2, 1.1, 1.4)[:, None].astype(np.float32)
        off = dataclasses.replace(self.truth, size_m=size, yaw_rad=self.truth.yaw_rad + np.float32(yaw_error_rad))
        return scored(off, bev_iou(off, self.truth))

    def quality(self, boxes: Boxes3D) -> dict[str, Any]:
        """The quality of boxes, as jobs measure it."""
        return pseudo_label_quality(
            boxes, self.truth, np.linalg.norm(self.truth.center_m[:, :2], axis=1), classes=NUSCENES_CLASSES
        )

    def write_labels(self, boxes: Boxes3D) -> None:
        """Write the stage "pseudo_labels": table and report."""
        ends = np.cumsum([len(r.clicks) for r in self.records])
        parts = [boxes[end - len(r.clicks) : end] for r, end in zip(self.records, ends.tolist(), strict=True)]
        pairs = zip(self.records, parts, strict=True)
        table = pd.concat(
            [to_pseudo_labels(r, b, self.prior, "teacher", classes=NUSCENES_CLASSES) for r, b in pairs],
            ignore_index=True,
        )
        write_pseudo_labels(self.path / "pseudo_labels" / "pseudo_labels.parquet", table, classes=NUSCENES_CLASSES)
        floor = self.quality(self.floor)
        report = {"teacher": self.quality(boxes), "class_mean": floor, "class_mean_pca": floor}
        self.run.finish("pseudo_labels", {**report, "accepted": int(table["accepted"].sum())})

    def write_trial(self, final: Boxes3D, corruption: Mapping[str, Any]) -> None:
        """Write the result of a search's trial, measured at the clicks of point-labeled samples, without floors."""
        figures = {"final": {"teacher": self.quality(final)}, "corruption": dict(corruption), "data": {}}
        self.run.finish("trial", {**figures, "measured_on": "point_labeled", "final_samples": 0})

    def write_curves(self, stage: str, store: Path, status: str = "FINISHED", **curves: Sequence[float]) -> None:
        """Write a stage's MLflow run: the curves of a good student except ``curves``, with a value every 50 steps."""
        tracker = Tracker.start(self.path, "doctor", stage, self.run.config.flat(), {}, tracking_dir=store)
        logger = tracker.metric_logger()
        named = CURVES | curves
        for at in range(max(map(len, named.values()))):
            logger.log({key: values[at] for key, values in named.items() if at < len(values)}, 50 * (at + 1))
        logger.flush()
        tracker.finish(status)


def scored(boxes: Boxes3D, score: np.ndarray) -> Boxes3D:
    """Copies of boxes with other scores."""
    return dataclasses.replace(boxes, score=np.asarray(score, np.float32))
