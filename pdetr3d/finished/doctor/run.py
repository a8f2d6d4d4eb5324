"""Reads the facts of a run directory that the checks need, on demand; another version of the code may have made it."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from pdetr3d.data.index.index import FILE as INDEX
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.clicks import by_people
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.labels.pseudo_table import read_pseudo_labels
from pdetr3d.data.loading.records import inspection_records, prior_size_m
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.finished.doctor.clicks import ClickFacts, click_facts
from pdetr3d.geometry.boxes import in_range
from pdetr3d.pseudo_labels import FLOORS, class_mean_boxes
from pdetr3d.run_files import DONE, TEACHER_QUALITY, RunFiles
from pdetr3d.schema import Boxes3D, DataError
from pdetr3d.tracking.history import History, read_histories

METRICS = ("loss", "unlabeled_heatmap", "unlabeled_box", "feature_std", "stall_share", "data_s", "step_s")
ON_VAL = ("trial", "evaluate_teacher")  # stages that measure at the val split's clicks by default


class Run:
    """The facts of a run. Nothing is written.

    A property that cannot be read raises DataError with the reason. A report that another version of the code wrote may
    lack a key, which raises KeyError.

    Attributes:
        path: the run directory. config: its flat keys, as the run recorded them in run.json.

    Raises:
        DataError: when ``path`` is no run directory.
    """

    def __init__(self, path: Path) -> None:
        self.files = RunFiles.open(path)
        self.path, self.config = path, self.files.identity

    @cached_property
    def source(self) -> str:
        """The stage that measured the teacher's boxes, see ``RunFiles.teacher_stage``."""
        if not self.files.teacher_stage:
            files = ", ".join(f"{stage}/{DONE}" for stage in TEACHER_QUALITY)
            raise DataError(f"none of {files} is there: the teacher's boxes were not measured yet")
        return self.files.teacher_stage

    @property
    def source_file(self) -> str:
        """The result of ``source``, under the run directory."""
        return f"{self.source}/{DONE}"

    @property
    def on_val(self) -> bool:
        """Whether ``source`` is of clicks of the val split (``ON_VAL``), not of the point-labeled samples."""
        return self.source in ON_VAL and self.measured.get("measured_on", "val") == "val"

    @cached_property
    def measured(self) -> dict[str, Any]:
        """The whole content of ``source``'s result."""
        return self.files.stage(self.source)

    @cached_property
    def teacher(self) -> dict[str, Any]:
        """``pseudo_label_quality`` of the teacher's boxes at the clicks of point-labeled samples, or of the val split
        (``ON_VAL``)."""
        quality, file = self.files.teacher(self.source), self.source_file
        if not quality:
            raise DataError(f"{file}: no teacher was trained there, so that none can be judged")
        if not quality["n"]:
            raise DataError(
                f"{file}: no click's true box is known there, so quality cannot be measured; "
                "label.holdout=0.2, in another --run-dir, measures it on box-labeled scenes"
            )
        return dict(quality)

    @cached_property
    def class_mean(self) -> dict[str, Any]:
        """``pseudo_label_quality`` of the class-mean box at the click, computed here if the run did not measure it."""
        for known in (self.measured, self.measured.get("final", {})):
            if FLOORS[0] in known:
                return dict(known[FLOORS[0]])
        records = inspection_records(self.index, list(self.manifest.roles), self.manifest)
        prior, _ = prior_size_m(records, classes=self.index.classes)
        if self.on_val:
            manifest = LabelManifest.open(self.path / "data" / f"manifest_{self.config['data.val_split']}")
            clicked = [r for r in inspection_records(self.index, list(manifest.roles), manifest) if len(r.clicks)]
        else:
            clicked = [r for r in records if r.role == "point" and len(r.clicks)]
            clicked = clicked[: self.measured.get("final_samples", 0) or None]  # a search may measure some alone
        boxes, truth = [], []
        for record in clicked:
            own = record.clicks.box_index
            boxes.append(class_mean_boxes(record.clicks[own >= 0], prior))
            truth.append(record.boxes[own[own >= 0]])
        true = Boxes3D.concatenate(truth)
        if len(true) != self.teacher["n"]:  # e.g. without samples that read broken files
            raise DataError(
                f"the class-mean box at the clicks is not known: {self.source} measured {self.teacher['n']} clicks, "
                f"of {len(true)} whose true box is known"
            )
        distance = np.linalg.norm(true.center_m[:, :2], axis=1)
        return pseudo_label_quality(Boxes3D.concatenate(boxes), true, distance, classes=self.index.classes)

    @cached_property
    def by_cameras(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Quality with no camera and with all of them missing, where a search of robustness measured both."""
        found = self.measured.get("corruption", {}).get("corruption.missing_cameras", {})
        return (found["0"], found["6"]) if {"0", "6"} <= set(found) else None

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Pseudo labels of the clicks within ``model.range_m``, outside of which the teacher predicts no boxes: the
        columns of pseudo_labels.parquet, and ``distance_m`` of the click from the LiDAR [m]."""
        file = self.path / "pseudo_labels" / "pseudo_labels.parquet"
        if not file.is_file():
            raise DataError("pseudo_labels/pseudo_labels.parquet is missing: there are no pseudo labels yet")
        clicks = self.manifest.clicks.to_pandas().set_index("click_id")[["x", "y", "z"]]
        table = read_pseudo_labels(file, self.index.classes).to_pandas()
        xyz = clicks.reindex(table["click_id"]).to_numpy()
        table["distance_m"] = np.hypot(xyz[:, 0], xyz[:, 1])
        return table[in_range(xyz, self.config["model.range_m"])]

    @cached_property
    def box_labels(self) -> dict[str, int]:
        """Class -> number of clicked objects in box-labeled samples, from which the teacher learned."""
        clicks = self.manifest.clicks.to_pandas()
        boxed = clicks["sample_token"].map(self.manifest.roles) == "box"
        return {str(name): int(count) for name, count in clicks[boxed]["class"].value_counts().items()}

    @cached_property
    def clicks(self) -> ClickFacts:
        """The clicks of box-labeled samples compared with their boxes. If people clicked, only their clicks count."""
        boxed = [token for token, role in self.manifest.roles.items() if role == "box"]
        records = inspection_records(self.index, boxed, self.manifest)
        people = "human" in pc.unique(self.manifest.clicks["source"]).to_pylist()
        if people:  # simulated clicks lie in their boxes by construction
            records = [dataclasses.replace(r, clicks=r.clicks[by_people(r.clicks)]) for r in records]
        facts = click_facts(records)
        if not len(facts.token):
            whose = "clicks of people" if people else "clicks"
            raise DataError(f"no box-labeled sample has {whose}, so that nothing can be compared")
        return facts

    @cached_property
    def histories(self) -> dict[str, History]:
        """Training stage ("teacher", "student_ours", ...) -> the curves that it logged."""
        found, problems = read_histories(self.path, METRICS)
        stages = {k: h for k, h in found.items() if k == "teacher" or k.startswith("student_")}
        if not stages:
            raise DataError(
                "; ".join(problems.values()) or "mlflow_run.json names no training: nothing was logged here"
            )
        return stages

    @cached_property
    def index(self) -> Index:
        """The dataset's index."""
        return Index.open(self.path / "data" / INDEX)

    @cached_property
    def manifest(self) -> LabelManifest:
        """The run's label manifest: the roles of samples, and the clicks."""
        return LabelManifest.open(self.path / "data" / "manifest")


def check_comparable(run: Run, other: Run) -> None:
    """Refuse a run for ``--against`` with which the effect of this run's fusion cannot be measured.

    Raises:
        DataError: when its teacher looks at images, or was measured on other clicks.
    """
    if run.config["teacher.fusion"] == "none" or other.config["teacher.fusion"] != "none":
        raise DataError(
            f"--against {other.path}: teacher.fusion is {run.config['teacher.fusion']} here and "
            f"{other.config['teacher.fusion']} there; compare a run of a teacher with images to one with "
            "teacher.fusion=none"
        )
    here, there = (
        f"{r.teacher['n']} of the {'val split' if r.on_val else 'train split'}, label manifest {r.manifest.digest}"
        for r in (run, other)
    )
    if here != there:
        raise DataError(
            f"--against {other.path}: its teacher was measured on other clicks ({there}; here {here}); compare runs of "
            "one job with the same data.*, label.* and sim.* keys"
        )
