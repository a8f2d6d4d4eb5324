"""``Tracked``: records a run in MLflow (curves, inputs, lineage, scores, models, pictures) and prints its progress.

Only the driver uses it.
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
from pdetr3d.data.storage.files import file_digest
from pdetr3d.pipeline.lineage import recall, step_of, trained_in
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

EXPERIMENT = "pdetr3d"  # name of the MLflow experiment
JUDGED = {"teacher": "bev_iou", "student": "SPNDS"}  # the figure by which a champion is chosen
LEAST_MAP = 0.01  # a student with a lower mAP finds objects only by chance, and does not become champion

# A function of a checkpoint: name of its stage, its step, its scores.
Observe = Callable[[str, int, Mapping[str, Any]], None]


class Tracked(Observer):
    """The observer of a job: records in MLflow, prints on the screen, passes scores of checkpoints to a listener.

    Args:
        parent: MLflow run in which the stages' runs are nested. None: it is set later, because no MLflow run is started
            before the job's input is accepted.
        tracking_dir: folder of the MLflow store; None: the run directory.

    Attributes:
        observe: the listener, or None. It is called with the scores of each kept checkpoint on ``data.select_split``
            while the stage is trained.
    """

    def __init__(self, parent: Tracker | None = None, tracking_dir: Path | None = None) -> None:
        self.parent, self.tracking_dir = parent or Tracker("", "", None), tracking_dir
        self.observe: Observe | None = None
        self.trackers: dict[str, Tracker] = {}  # stage in training -> its MLflow run
        self.registered: dict[str, str] = {}  # kind of model -> words about its newest version

    def say(self, text: str) -> None:
        say(text)

    def warn(self, text: str) -> None:
        warn(text)

    def phase(self, kind: str) -> AbstractContextManager[None]:
        return PHASES.of(kind)

    def tracker(self, run: Run, name: str, tags: Mapping[str, Any]) -> Tracker:
        """Start or continue the MLflow run of a stage.

        Args:
            name: of the stage. tags: of the MLflow run.
        """
        return Tracker.start(
            run.path,
            EXPERIMENT,
            name,
            run.config.flat(),
            {"changed": changed(run.config), **tags},
            self.parent.run_id or None,
            tracking_dir=self.tracking_dir or run.path,
            title=f"{name} {run.config.run.name}".strip(),  # with the run's name, which tells a search's trials apart
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
        """Record metrics, model and pictures of the checkpoint, and register the model; see ``Observer.evaluated``."""
        kind, step = name.split("_")[0], step_of(file)
        known = recall(run.path / name)
        tags = {
            "trained_by": known.pop("run_id", ""),
            **known,
            **run.lineage(),
            "stage": name,
            "checkpoint": file_digest(file),
            "checkpoint_uri": checkpoint_address(run, name, file),
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
            score = Score(JUDGED[kind], value, data, circumstances(run.config, measured_on), unfit(report, floor))
            said = register(tracker, kind, model, score, tags)
            tracker.quietly(lambda client: client.log_artifacts(tracker.run_id, str(drawn), FOLDER))
        if said:
            self.registered[kind] = said

    def left_out(self, run: Run) -> None:
        """Record the samples that ``data.on_error=skip`` leaves out: their number, and the file that lists them.

        Call it before the stages, so that also a job that fails has recorded them. It records them once per parent
        MLflow run, which the trials of a search share and a rerun continues.
        """
        name = "skipped_samples"
        if run.config.data.on_error == "skip" and not self.parent.history(name):
            self.parent.log_artifact(run.path / "data" / SKIPPED, "data")
            self.parent.log_metrics({name: len(run.data.skipped)})

    def described(
        self,
        run: Run,
        arms: Mapping[str, Any],
        quality: Mapping[str, Any],
        holdout: Mapping[str, Any] | None,
        picture: Path,
    ) -> None:
        """Record the headline metrics and the description of the parent MLflow run.

        Args:
            arms: arm -> scores on the val split. quality: of the pseudo labels. holdout: result of the stage "holdout",
                or None. picture: file that the text shows.
        """
        teacher, held_out = quality["teacher"], holdout["teacher"] if holdout else None
        # Without objects, scores are zero and mean nothing.
        arms = {arm: report if seen_objects(report) else {} for arm, report in arms.items()}
        self.parent.log_metrics(headline(arms, teacher, held_out))
        runs = {name: entry["run_id"] for name, entry in read_run_file(run.path).items()}

        def markdown(run_id: str, experiment_id: str) -> str:
            children = {name: child for name, child in runs.items() if child != run_id}
            told = changed(run.config)
            return description(arms, teacher, held_out, told, picture.name, run_id, children, experiment_id)

        self.parent.describe(markdown)


def changed(config: Config) -> str:
    """The config keys whose values differ from the preset's, as ``key=value`` words separated by blanks."""
    before = PRESETS.get(config.preset, Config(preset="")).flat()
    return " ".join(f"{key}={json.dumps(value)}" for key, value in config.flat().items() if value != before[key])


def training_begins(run: Run, tracker: Tracker) -> None:
    """Record the config, environment, git state and data of a training stage in its MLflow run.

    The recorded datasets are whole splits, since MLflow has a single entry for datasets of the same digest. The tag
    ``samples`` of the MLflow run is the number of samples that the stage is trained on.
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
    """The reason why a model with these scores must not become champion; "" if there is none.

    Args:
        report: of the devkit's scorer, or of boxes at clicks. floor: BEV IoU of class-mean boxes at the same clicks;
            None: unknown.
    """
    if report.get("mAP") is not None and report["mAP"] < LEAST_MAP:
        return f"the mAP of {report['mAP']:.2g} is below {LEAST_MAP:g}: it finds next to nothing"
    if floor is not None and report.get("bev_iou") is not None and report["bev_iou"] <= floor:
        return f"the BEV IoU of {report['bev_iou']:.3f} is not above {floor:.3f}, that of class-mean boxes"
    return ""


def seen_objects(report: dict[str, Any]) -> int:
    """The number of true objects behind a report of the devkit's scorer, or of boxes at clicks."""
    return int(sum(report["n_gt"].values()) if "n_gt" in report else report["n"])


def checkpoint_address(run: Run, name: str, file: Path) -> str:
    """The URI of a kept checkpoint: in shared storage if there is one, else in the run directory."""
    if not run.config.storage.path:
        return file.resolve().as_uri()
    digest = trained_in(run.path, name, run.dir.digest)
    folder = stage_uri(run.config, digest, name, run.path)[1]
    return f"{checkpoint_uri(folder, step_of(file))}/{FILE}"


def circumstances(config: Config, measured_on: str) -> str:
    """The data behind a score: split or frames, and how the input was corrupted. Only equal ones are compared."""
    if config.corruption == CorruptionConfig():
        return measured_on
    return f"{measured_on}, corrupted by {json.dumps(config.corruption.model_dump())}"
