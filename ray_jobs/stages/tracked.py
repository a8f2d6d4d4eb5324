"""What MLflow is told about a run's stages beside their curves: inputs, lineage, scores, models, pictures.

Called by the driver alone. What a stage descends from is also kept in its folder (``lineage.json``): a run that takes
over finished stages of another one finds it there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdetr3d.config import Config, CorruptionConfig
from pdetr3d.data.loading.skipped import FILE as SKIPPED
from pdetr3d.data.storage.files import parquet_digest
from pdetr3d.presets import PRESETS
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.tracking.datasets import DataInput, data_digest, log_inputs
from pdetr3d.tracking.models import Score, log_checkpoint, log_model_metrics, register
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker, read_run_file
from pdetr3d.tracking.scores import score_metrics
from pdetr3d.tracking.summary import description, headline
from pdetr3d.training.checkpoint import FILE
from pdetr3d.training.run_dir import write_json
from ray_jobs.plug.fit import CROPS, stage_uri
from ray_jobs.plug.resume import checkpoint_uri
from ray_jobs.stages.pictures import FOLDER, draw_pictures

if TYPE_CHECKING:
    from ray_jobs.stages.stages import Stages

LINEAGE = "lineage.json"
JUDGED = {"teacher": "bev_iou", "student": "SPNDS"}
LEAST_MAP = 0.01  # of a student that may become champion: below it nothing is found but by chance


def changed(config: Config) -> str:
    """What a config has other than its preset, as ``key=value`` words: which of a run's params are worth a look."""
    before = PRESETS.get(config.preset, Config(preset="")).flat()
    return " ".join(f"{key}={json.dumps(value)}" for key, value in config.flat().items() if value != before[key])


def described(stages: Stages, arms: Mapping[str, Any], quality: Mapping[str, Any], picture: Path) -> None:
    """The parent run's headline metrics and description."""
    teacher = quality["teacher"]
    arms = {arm: report if seen_objects(report) else {} for arm, report in arms.items()}  # else zeros of the unknown
    stages.parent.log_metrics(headline(arms, teacher))
    runs = {name: entry["run_id"] for name, entry in read_run_file(stages.run.path).items()}

    def markdown(run_id: str, experiment_id: str) -> str:
        children = {name: child for name, child in runs.items() if child != run_id}
        return description(arms, teacher, changed(stages.config), picture.name, run_id, children, experiment_id)

    stages.parent.describe(markdown)


def step_of(file: Path) -> int:
    """Optimizer steps behind a kept checkpoint, from its name."""
    return int(file.stem.removeprefix("step_"))


def file_digest(file: Path) -> str:
    """16 hex digits of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def recall(folder: Path) -> dict[str, str]:
    """What ``remember`` kept in a stage's folder."""
    file = folder / LINEAGE
    return json.loads(file.read_text()) if file.exists() else {}


def remember(folder: Path, **facts: str) -> None:
    """Keep what other stages' runs say of this one, as tags; call before the stage is marked finished."""
    write_json(folder / LINEAGE, {key: value for key, value in facts.items() if value})


def ancestors(stages: Stages, name: str) -> dict[str, str]:
    """Tags that lead from a stage's run to what it learned from: run ids and digests."""
    if name == "student_ours":  # teacher_run_id, teacher_checkpoint, pseudo_labels
        return recall(stages.run.path / "pseudo_labels")
    known = recall(stages.run.path / "student_boxes_only")
    crops = recall(stages.run.path / CROPS)
    first = {key: known[key] for key in ("run_id", "checkpoint") if key in known}
    if name == "student_self_training":
        return {f"labels_{key}": value for key, value in first.items()}
    if name != "teacher":
        return {}
    tags = {f"crops_{key}": crops[key] for key in ("run_id", "checkpoint") if key in crops}
    if stages.config.teacher.lidar_init != "none":
        tags |= {f"initial_{key}": value for key, value in first.items()}
    return tags


def left_out(stages: Stages) -> None:
    """The samples that ``data.on_error=skip`` leaves out: how many, and the list of them.

    Told when they are known, so that a job that fails has told, too; once per MLflow run, which a search's runs share
    and a rerun continues.
    """
    name, parent = "skipped_samples", stages.parent
    if stages.config.data.on_error == "skip" and not parent.history(name):
        parent.log_artifact(stages.run.path / "data" / SKIPPED, "data")
        parent.log_metrics({name: len(stages.data.skipped)})


def training_begins(stages: Stages, tracker: Tracker) -> None:
    """Config, environment, git state and data of a training stage.

    Inputs are whole splits: MLflow keeps one entry for all runs whose dataset has the same digest. How many samples of
    them a stage is trained on is its run's tag ``samples``.
    """
    config, data = stages.config, stages.data
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


def training_ends(stages: Stages, tracker: Tracker, name: str, file: Path) -> None:
    """Keep which run and checkpoint others will descend from, and what this one descends from."""
    known = {"run_id": tracker.run_id, "run": stages.run.digest, "checkpoint": file_digest(file)}
    remember(stages.run.path / name, **known, **ancestors(stages, name))


def trained_in(stages: Stages, name: str) -> str:
    """Digest of the run that trained a stage: another one where the stage was taken over."""
    return recall(stages.run.path / name).get("run", stages.run.digest)


def labels_made(stages: Stages, teacher: Path) -> None:
    """Keep what the pseudo labels are and whose."""
    known = recall(stages.run.path / "teacher")
    digest = parquet_digest(stages.pseudo_file)
    parent = {"teacher_run_id": known.get("run_id", ""), "teacher_checkpoint": file_digest(teacher)}
    remember(stages.pseudo_file.parent, pseudo_labels=digest, **parent)


def evaluated(
    stages: Stages,
    name: str,
    file: Path,
    report: dict[str, Any],
    prefix: str,
    measured_on: str,
    pictures: Sequence[tuple[SampleRecord, Boxes3D]],
    selection: Mapping[str, dict[str, Any]] | None = None,
    floor: float | None = None,
) -> None:
    """A stage's chosen checkpoint was scored: its metrics, model, registered version and pictures.

    Args:
        name: of the stage. report: of the evaluation. prefix: of the metrics, e.g. "val". measured_on: which objects;
            champions are compared on the same ones. pictures: predictions to draw. selection: reports on the select
            split by name of the checkpoint file, where nobody wrote them down during training. floor: what boxes that
            need no training reach of the figure that a champion is chosen by; None: unknown.
    """
    kind, step = name.split("_")[0], step_of(file)
    known = recall(stages.run.path / name)
    tags = {
        "trained_by": known.pop("run_id", ""),
        **known,
        **stages.lineage(),
        "stage": name,
        "checkpoint": file_digest(file),
        "checkpoint_uri": _address(stages, name, file),
    }
    flat = stages.config.flat()
    data = data_digest(stages.data.digest, stages.data.manifest.digest)
    drawn = draw_pictures(stages.run.path / name, stages.config, pictures)
    with stages.tracker(name, tags) as tracker:
        for checkpoint, scores in (selection or {}).items():
            tracker.log_metrics(score_metrics("select", scores), step_of(Path(checkpoint)))
        model = log_checkpoint(tracker, kind, f"{name}_{file.stem}", step, flat, tags)
        log_model_metrics(tracker, model, score_metrics(prefix, report), step)
        value = report[JUDGED[kind]] if seen_objects(report) else None
        circumstances = _circumstances(stages.config, measured_on)
        score = Score(JUDGED[kind], value, data, circumstances, unfit(report, floor))
        said = register(tracker, kind, model, score, tags)
        tracker.quietly(lambda client: client.log_artifacts(tracker.run_id, str(drawn), FOLDER))
    if said:
        print(f"MLflow: {said}", flush=True)


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


def _address(stages: Stages, name: str, file: Path) -> str:
    """Where a kept checkpoint lies: in shared storage if there is one, else in the run directory."""
    if not stages.config.storage.path:
        return file.resolve().as_uri()
    folder = stage_uri(stages.config, trained_in(stages, name), name, stages.run.path)[1]
    return f"{checkpoint_uri(folder, step_of(file))}/{FILE}"


def _circumstances(config: Config, measured_on: str) -> str:
    if config.corruption == CorruptionConfig():
        return measured_on
    return f"{measured_on}, corrupted by {json.dumps(config.corruption.model_dump())}"
