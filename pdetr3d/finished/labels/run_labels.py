"""The labels of a finished run, as its student saw them: read from the run directory alone, which stays as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pdetr3d.data.index.index import FILE as INDEX
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.labels.pseudo_table import read_pseudo_labels
from pdetr3d.data.loading.records import training_records
from pdetr3d.schema import DataError, SampleRecord


@dataclass(frozen=True)
class RunLabels:
    """Index, label manifest and pseudo labels of a run.

    Attributes:
        path: the run directory. config: its keys, flat (``label.pseudo_for`` ...), as the run wrote them down.
        table: pseudo_labels.parquet, accepted and rejected rows.
        records: every sample of the train split; ``boxes`` holds what the student was given: human boxes (role "box"),
            accepted pseudo labels (role "point"), none (roles "empty" and "unlabeled": the student never saw those).
    """

    path: Path
    config: dict[str, Any]
    index: Index
    manifest: LabelManifest
    table: pd.DataFrame
    records: Sequence[SampleRecord]

    @staticmethod
    def open(run_dir: Path) -> RunLabels:
        """Read the run; another version of the code may have made it.

        Raises:
            DataError: when it has no pseudo labels yet, or its files do not fit each other.
        """
        file, pseudo = run_dir / "run.json", run_dir / "pseudo_labels" / "pseudo_labels.parquet"
        if not (file.is_file() and pseudo.is_file()):
            raise DataError(
                f"{run_dir}: no run with pseudo labels here ({(pseudo if file.is_file() else file).name} is missing); "
                f"run python -m ray_jobs.pseudo_label with --run-dir {run_dir} first"
            )
        config = json.loads(file.read_text())
        data = run_dir / "data"
        index, manifest = Index.open(data / INDEX), LabelManifest.open(data / "manifest")
        if not (index.dataroot / index.version).is_dir():
            raise DataError(f"{index.path}: its dataset {index.dataroot} is gone (the run directory was moved?)")
        everywhere = config["label.pseudo_for"] == "all"
        records = training_records(index, manifest, pseudo, pseudo_everywhere=everywhere)
        return RunLabels(
            run_dir, config, index, manifest, read_pseudo_labels(pseudo, index.classes).to_pandas(), records
        )

    @cached_property
    def role_of(self) -> dict[str, str]:
        """sample_token -> one of ROLES, every train sample; with ``label.pseudo_for=all`` none is "box"."""
        return {record.sample_token: record.role for record in self.records}

    @property
    def accepted(self) -> pd.DataFrame:
        """The pseudo labels that the student was given."""
        point = self.table["sample_token"].map(self.role_of) == "point"
        return self.table[self.table["accepted"].astype(bool) & point]

    @property
    def teacher_cameras(self) -> bool:
        """Whether the teacher looked at images (as ``TeacherConfig.cameras``)."""
        return self.config["teacher.model"] == "point_detr3d" and self.config["teacher.fusion"] != "none"
