"""A run of the pipeline: its data, its runner and observer, and the training of one stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import Config
from pdetr3d.data.augmentation.gt_sampling import database_of
from pdetr3d.data.label_manifest import inspection_records, prior_size_m, training_records
from pdetr3d.data.loading.crops import Crops, crops_of
from pdetr3d.data.loading.record_list import Records, boxed, pick
from pdetr3d.data.loading.skipped import FILE as SKIPPED
from pdetr3d.data.loading.skipped import without
from pdetr3d.pipeline.holdout import held_out
from pdetr3d.pipeline.lineage import origins, trained
from pdetr3d.pipeline.observer import Observer
from pdetr3d.pipeline.quality import KnownClicks
from pdetr3d.pipeline.runner import Runner
from pdetr3d.pipeline.training import CROPS, Training
from pdetr3d.schema import DataError, SampleRecord
from pdetr3d.training.build import check_models
from pdetr3d.training.label_source import typical_sizes
from pdetr3d.training.run_dir import Data, RunDir, prepare

Score = Callable[[Training, Path], float]


class Run:
    """A run directory with its data, runner and observer.

    Args:
        run_dir: the run directory. runner: trains and predicts. observer: receives progress and results. index: folder
            of an index that runs share, see ``prepare``.

    Attributes:
        path: of the run directory. config: of the run. data: index and labels.
        records: the train samples that can be read. prior: class sizes (C, 3) [m] of the box-labeled ones.
        absent_classes: classes without a box, which get typical sizes. timing: stage -> seconds in this process.
    """

    def __init__(self, run_dir: RunDir, runner: Runner, observer: Observer, index: Path | None = None) -> None:
        self.dir, self.path, self.runner, self.observer = run_dir, run_dir.path, runner, observer
        self.config: Config = run_dir.config
        self.data: Data = prepare(run_dir, index)
        self.records = self.kept(training_records(self.data.index, self.data.manifest))
        if not self.records.boxed.any():
            raise DataError(
                f"{self.path}: all box-labeled samples read broken files (see data/{SKIPPED} there) and are left "
                "out by data.on_error=skip; copy the files again, or choose others with label.seed or label.ratio"
            )
        held_out(self.records, self.config.label)  # raises before any work if too few scenes have boxes
        self.prior, self.absent_classes = prior_size_m(self.records, self.config.data, classes=self.config.classes)
        check_models(self.config, self.prior)
        if index is None and (told := typical_sizes(self.data.manifest, self.absent_classes, self.config.classes)):
            observer.warn(told)
        self.timing: dict[str, float] = {}
        self.locks: dict[str, Lock] = defaultdict(Lock)

    def lineage(self) -> dict[str, str]:
        """The digests of the run, its index and its label manifest."""
        data = self.data
        return {"run": self.dir.digest, "index": data.digest, "manifest": data.manifest.digest}

    @property
    def labeled(self) -> int:
        """The number of samples that people labeled by boxes, clicks or as empty; an epoch of a student has so many."""
        return int(self.records.labeled.sum())

    @property
    def to_label(self) -> Records:
        """The samples whose clicks get pseudo labels."""
        everywhere = self.config.label.pseudo_for == "all"
        return self.records.select(self.records.clicked & (everywhere | ~self.records.boxed))

    @property
    def pseudo_file(self) -> Path:
        """pseudo_labels.parquet of this run."""
        return self.path / "pseudo_labels" / "pseudo_labels.parquet"

    @cached_property
    def known_records(self) -> Records:
        """All train samples with all boxes of the tables, for reports and arm "full"."""
        return self.kept(training_records(self.data.index, self.data.manifest, boxes_everywhere=True))

    def kept(self, records: Records) -> Records:
        """The records without the samples that are left out because of broken files."""
        return without(records, self.data.skipped)

    def known_clicks(self, records: Sequence[SampleRecord]) -> KnownClicks:
        """The true boxes of the records' clicks, for reports only."""
        index, manifest = self.data.index, self.data.manifest

        def known(piece: list[SampleRecord]) -> list[SampleRecord]:
            return inspection_records(index, [r.sample_token for r in piece], manifest)

        return KnownClicks(records, known, classes=self.config.classes)

    def result(self, stage: str) -> dict[str, Any] | None:
        """The stored result of a stage; None while it is not finished."""
        return self.dir.result(stage)

    def finished(self, stage: str) -> dict[str, Any]:
        """The stored result of a finished stage.

        Raises:
            DataError: when the stage is not finished.
        """
        done = self.result(stage)
        if done is None:
            raise DataError(f"{self.path / stage} is not finished: run its job with this --run-dir first")
        return done

    def checkpoints(self, name: str) -> list[Path]:
        """The kept checkpoints of a finished training stage, oldest first.

        Raises:
            DataError: when the stage is not trained.
        """
        done = self.result(name)
        if done is None or "checkpoints" not in done:
            job = "train_student" if name.startswith("student") else "train_teacher"
            raise DataError(
                f"{self.path / name} is not trained: run python -m ray_jobs.{job} with this --run-dir first"
            )
        return [self.path / name / file for file in done["checkpoints"]]

    def gt_database(self, records: Sequence[SampleRecord], folder: str = "gt_database") -> Path:
        """The file of the objects that GT sampling may paste into these records. It is made if it is missing."""
        with self.locks[folder]:
            return database_of(self.path / folder, records, self.config)

    def fit(
        self,
        name: str,
        kind: str,
        records: Sequence[SampleRecord],
        steps: int,
        *,
        guidance: bool = False,
        lidar_init: Path | None = None,
        crop_init: Path | None = None,
        crops: Crops | None = None,
        mean_teacher: bool = False,
        prior: NDArray[np.float32] | None = None,
        score: Score | None = None,
    ) -> dict[str, Any]:
        """Train a stage; returns its result: names of its kept ``checkpoints``, oldest first, ``steps``, ``samples``.

        Args:
            name: of the stage. kind: "teacher", "crops" or "student". records: its samples. steps: optimizer steps.
            guidance, lidar_init, crop_init, mean_teacher: see ``Training``. crops: of kind "crops"; None: those of the
                records' boxes. prior: class sizes (C, 3) [m]; None: those of the run. score: scores a checkpoint on
                ``data.select_split`` during the training; it is called only if ``optim.patience`` or the observer needs
                the scores.
        """
        config = self.config
        if kind == "student" and config.student.box_share:
            records = pick(records, np.argsort(~boxed(records), kind="stable"))  # box-labeled ones first
        sizes = self.prior if prior is None else prior
        if kind == CROPS and crops is None:
            crops = crops_of(records, config.data, sizes, cameras=config.teacher.has_pictures)
        pasted_from = "gt_database" if prior is None else f"gt_database_{name}"
        pastes = kind == "student" and config.student.gt_sampling
        tags = {
            **self.lineage(),
            "stage": name,
            "label_ratio": self.data.manifest.achieved_ratio,
            "samples": len(records),
            **origins(self.path, config, name),
        }
        with self.observer.training(self, name, tags) as tracking:
            work = Training(
                name=name,
                kind=kind,
                config=config,
                records=records,
                prior_size_m=sizes,
                steps=steps,
                guidance=guidance,
                tracking=tracking,
                lidar_init=lidar_init,
                identity=self.dir.digest,
                gt_database=self.gt_database(records, pasted_from) if pastes else None,
                mean_teacher=mean_teacher,
                crop_init=crop_init,
                crops=crops,
            )
            asked = score is not None and (work.optim.patience or self.observer.watches(name))
            files = self.runner.fit(work, self.path, (lambda file: score(work, file)) if asked and score else None)
            run_id = tracking[1] if tracking else ""
            trained(self.path, config, name, files[-1], digest=self.dir.digest, run_id=run_id)
        return {"checkpoints": [file.name for file in files], "steps": steps, "samples": len(records)}
