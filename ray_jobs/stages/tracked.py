"""What MLflow and the terminal are told of a run's stages: curves, inputs, lineage, scores, models, pictures.

Called by the driver alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pdetr3d.config import Config, CorruptionConfig
from pdetr3d.data.loading.record_list import Records
from pdetr3d.data.loading.skipped import FILE as SKIPPED
from pdetr3d.pipeline.lineage import file_digest, recall, step_of, trained_in
from pdetr3d.pipeline.observer import Observer
from pdetr3d.pipeline.run import Run
from pdetr3d.presets import PRESETS
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.tracking.datasets import DataInput, data_digest, log_inputs
from pdetr3d.tracking.models import Score, log_checkpoint, log_model_metrics, register
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker, read_run_file
from pdetr3d.tracking.scores import score_metrics
from pdetr3d.tracking.summary import description, headline
from pdetr3d.tracking.system import system_metrics
from pdetr3d.training.checkpoint import FILE
from ray_jobs.plug.context import STATS
from ray_jobs.plug.fit import stage_uri
from ray_jobs.plug.resume import checkpoint_uri
from ray_jobs.stages.pictures import FOLDER, clicked_pictures, confident, draw_pictures, pictured_records
from ray_jobs.terminal.console import say, warn
from ray_jobs.terminal.phases import PHASES

EXPERIMENT = "pdetr3d"
JUDGED = {"teacher": "bev_iou", "student": "SPNDS"}
LEAST_MAP = 0.01  # of a student that may become champion: below it nothing is found but by chance

# Stage, step and scores of a checkpoint.
Observe = Callable[[str, int, Mapping[str, Any]], None]


class Tracked(Observer):
    """Tells MLflow, the terminal, and who watches a curve.

    Args:
        parent: MLflow run that the stages' runs are nested in; None: it is set later, so that no run is begun for input
            that is refused before.
        tracking_dir: where the MLflow store is; None: in the run directory.

    Attributes:
        observe: when set, told of each kept checkpoint's scores on ``data.select_split`` while its training goes on.
    """

    def __init__(self, parent: Tracker | None = None, tracking_dir: Path | None = None) -> None:
        self.parent, self.tracking_dir = parent or Tracker("", "", None), tracking_dir
        self.observe: Observe | None = None
        self.trackers: dict[str, Tracker] = {}  # of the stages in training

    def say(self, text: str) -> None:
        say(text)

    def warn(self, text: str) -> None:
        warn(text)

    def phase(self, kind: str) -> AbstractContextManager[None]:
        return PHASES.of(kind)

    def tracker(self, run: Run, name: str, tags: Mapping[str, Any]) -> Tracker:
        """The MLflow run of a stage: started, or continued."""
        return Tracker.start(
            run.path,
            EXPERIMENT,
            name,
            run.config.flat(),
            {"changed": changed(run.config), **tags},
            self.parent.run_id or None,
            tracking_dir=self.tracking_dir or run.path,
            title=f"{name} {run.config.run.name}".strip(),  # else all are alike in a search
        )

    @contextmanager
    def training(self, run: Run, name: str, tags: Mapping[str, Any]) -> Iterator[tuple[str, str] | None]:
        with self.tracker(run, name, tags) as tracker, system_metrics(tracker):
            training_begins(run, tracker)
            self.trackers[name] = tracker
            yield (tracker.uri, tracker.run_id) if tracker.run_id else None
            if (stats := run.path / name / STATS).exists():
                tracker.log_artifact(stats)

    def watches(self, name: str) -> bool:
        return self.observe is not None

    def scored(self, run: Run, name: str, file: Path, scores: Mapping[str, Any]) -> None:
        self.trackers[name].log_metrics(score_metrics("select", scores), step_of(file))
        if self.observe is not None:
            self.observe(name, step_of(file), scores)

    def pictured(self, run: Run) -> list[SampleRecord]:
        return pictured_records(run)

    def clicked(self, run: Run, records: Records) -> tuple[list[SampleRecord], list[SampleRecord]]:
        return clicked_pictures(run, records)

    def evaluated(
        self,
        run: Run,
        name: str,
        file: Path,
        report: dict[str, Any],
        prefix: str,
        measured_on: str,
        pictures: Sequence[tuple[SampleRecord, Boxes3D]],
        selection: Mapping[str, dict[str, Any]] | None = None,
        floor: float | None = None,
    ) -> None:
        """Metrics, model, registered version and pictures of the checkpoint."""
        kind, step = name.split("_")[0], step_of(file)
        known = recall(run.path / name)
        tags = {
            "trained_by": known.pop("run_id", ""),
            **known,
            **run.lineage(),
            "stage": name,
            "checkpoint": file_digest(file),
            "checkpoint_uri": _address(run, name, file),
        }
        flat, data = run.config.flat(), data_digest(run.data.digest, run.data.manifest.digest)
        shown = [(record, confident(boxes) if kind == "student" else boxes) for record, boxes in pictures]
        drawn = draw_pictures(run, name, shown)
        with self.tracker(run, name, tags) as tracker:
            for checkpoint, scores in (selection or {}).items():
                tracker.log_metrics(score_metrics("select", scores), step_of(Path(checkpoint)))
            model = log_checkpoint(tracker, kind, f"{name}_{file.stem}", step, flat, tags)
            log_model_metrics(tracker, model, score_metrics(prefix, report), step)
            value = report[JUDGED[kind]] if seen_objects(report) else None
            circumstances = _circumstances(run.config, measured_on)
            score = Score(JUDGED[kind], value, data, circumstances, unfit(report, floor))
            said = register(tracker, kind, model, score, tags)
            tracker.quietly(lambda client: client.log_artifacts(tracker.run_id, str(drawn), FOLDER))
        if said:
            print(f"MLflow: {said}", flush=True)

    def left_out(self, run: Run) -> None:
        """The samples that ``data.on_error=skip`` leaves out: how many, and the list of them.

        Told when they are known, so that a job that fails has told, too; once per MLflow run, which a search's runs
        share and a rerun continues.
        """
        name = "skipped_samples"
        if run.config.data.on_error == "skip" and not self.parent.history(name):
            self.parent.log_artifact(run.path / "data" / SKIPPED, "data")
            self.parent.log_metrics({name: len(run.data.skipped)})

    def described(self, run: Run, arms: Mapping[str, Any], quality: Mapping[str, Any], picture: Path) -> None:
        """The parent run's headline metrics and description."""
        teacher = quality["teacher"]
        arms = {arm: report if seen_objects(report) else {} for arm, report in arms.items()}  # else zeros of unknown
        self.parent.log_metrics(headline(arms, teacher))
        runs = {name: entry["run_id"] for name, entry in read_run_file(run.path).items()}

        def markdown(run_id: str, experiment_id: str) -> str:
            children = {name: child for name, child in runs.items() if child != run_id}
            return description(arms, teacher, changed(run.config), picture.name, run_id, children, experiment_id)

        self.parent.describe(markdown)


def changed(config: Config) -> str:
    """What a config has other than its preset, as ``key=value`` words: which of a run's params are worth a look."""
    before = PRESETS.get(config.preset, Config(preset="")).flat()
    return " ".join(f"{key}={json.dumps(value)}" for key, value in config.flat().items() if value != before[key])


def training_begins(run: Run, tracker: Tracker) -> None:
    """Config, environment, git state and data of a training stage.

    Inputs are whole splits: MLflow keeps one entry for all runs whose dataset has the same digest. How many samples of
    them a stage is trained on is its run's tag ``samples``.
    """
    config, data = run.config, run.data
    log_provenance(tracker, config.to_json())
    manifest = data.manifest
    ratio = {"label_ratio": manifest.achieved_ratio, "label_seed": config.label.seed, "labels": config.label.source}
    source = config.data.packed or str(data.index.dataroot)
    digest = data_digest(data.digest, manifest.digest)
    train, count = config.data.train_split, len(manifest.roles)
    inputs = [DataInput(f"{data.index.version} {train}", digest, source, "train", count, ratio)]
    for context, split in (("select", config.data.select_split), ("val", config.data.val_split)):
        if split:
            count = len(data.index.tokens(split))
            inputs.append(DataInput(f"{data.index.version} {split}", data.digest, source, context, count))
    log_inputs(tracker, inputs)


def unfit(report: Mapping[str, Any], floor: float | None) -> str:
    """Why no champion can be made of a model with this report; "" where one can.

    Args:
        report: of the devkit's scorer, or of boxes at clicks. floor: of the latter's BEV IoU; None: unknown.
    """
    if report.get("mAP") is not None and report["mAP"] < LEAST_MAP:
        return f"the mAP of {report['mAP']:.2g} is below {LEAST_MAP:g}: it finds next to nothing"
    if floor is not None and report.get("bev_iou") is not None and report["bev_iou"] <= floor:
        return f"the BEV IoU of {report['bev_iou']:.3f} is not above {floor:.3f}, that of class-mean boxes"
    return ""


def seen_objects(report: dict[str, Any]) -> int:
    """How many true objects a report was measured on: of the devkit's scorer, or of boxes at clicks."""
    return int(sum(report["n_gt"].values()) if "n_gt" in report else report["n"])


def _address(run: Run, name: str, file: Path) -> str:
    """Where a kept checkpoint lies: in shared storage if there is one, else in the run directory."""
    if not run.config.storage.path:
        return file.resolve().as_uri()
    folder = stage_uri(run.config, trained_in(run, name), name, run.path)[1]
    return f"{checkpoint_uri(folder, step_of(file))}/{FILE}"


def _circumstances(config: Config, measured_on: str) -> str:
    if config.corruption == CorruptionConfig():
        return measured_on
    return f"{measured_on}, corrupted by {json.dumps(config.corruption.model_dump())}"
