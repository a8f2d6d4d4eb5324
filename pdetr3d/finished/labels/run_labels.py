"""Reads the labels of a finished run, as its student got them, from the run directory; writes nothing."""

from __future__ import annotations

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
from pdetr3d.run_files import CONFIG, RunFiles, is_run
from pdetr3d.schema import DataError, SampleRecord


@dataclass(frozen=True)
class RunLabels:
    """Index, label manifest and pseudo labels of a run.

    Attributes:
        path: the run directory. config: its flat keys (``label.pseudo_for``, ...), as the run recorded them.
        index: of the dataset. manifest: of the labels.
        table: pseudo_labels.parquet, with accepted and rejected rows.
        records: every sample of the train split. Its ``boxes`` are those that the student got: human boxes (role
            "box"), accepted pseudo labels (role "point"), or none (roles "empty" and "unlabeled", which the student did
            not see).
    """

    path: Path
    config: dict[str, Any]
    index: Index
    manifest: LabelManifest
    table: pd.DataFrame
    records: Sequence[SampleRecord]

    @staticmethod
    def open(run_dir: Path) -> RunLabels:
        """Read a run, which another version of the code may have made.

        Raises:
            DataError: when the run has no pseudo labels yet, or its files do not belong together.
        """
        pseudo = run_dir / "pseudo_labels" / "pseudo_labels.parquet"
        if not (is_run(run_dir) and pseudo.is_file()):
            raise DataError(
                f"{run_dir}: no run with pseudo labels here ({pseudo.name if is_run(run_dir) else CONFIG} is missing); "
                f"run python -m ray_jobs.pseudo_label with --run-dir {run_dir} first"
            )
        config = RunFiles(run_dir).identity
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
        """Sample token -> one of ROLES, for every train sample; with ``label.pseudo_for=all`` no role is "box"."""
        return {record.sample_token: record.role for record in self.records}

    @property
    def accepted(self) -> pd.DataFrame:
        """The rows of the pseudo labels that the student got."""
        point = self.table["sample_token"].map(self.role_of) == "point"
        return self.table[self.table["accepted"].astype(bool) & point]

    @property
    def teacher_cameras(self) -> bool:
        """Whether the teacher used images (as ``TeacherConfig.cameras``)."""
        return self.config["teacher.model"] == "point_detr3d" and self.config["teacher.fusion"] != "none"
