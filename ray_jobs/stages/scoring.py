"""What checkpoints are worth: students by the devkit's scorer on whole splits, teachers by their boxes at clicks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pdetr3d.data.label_manifest import LabelManifest, build_manifest, eval_records, training_records
from pdetr3d.data.labels.roles import annotated
from pdetr3d.data.loading.record_list import Records
from pdetr3d.data.loading.skipped import without
from pdetr3d.data.storage.row_table import TextPlaces
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.schema import Boxes3D
from pdetr3d.tracking.runs import Tracker
from pdetr3d.tracking.scores import score_metrics
from ray_jobs.plug.fit import CROPS, Stage
from ray_jobs.plug.inference import predict
from ray_jobs.stages.pictures import confident, pictured_records
from ray_jobs.stages.quality import KnownClicks
from ray_jobs.stages.tracked import evaluated, step_of
from ray_jobs.terminal.console import say
from ray_jobs.terminal.phases import PHASES

if TYPE_CHECKING:
    from pdetr3d.evaluation.results_format import Poses
    from ray_jobs.stages.stages import Stages

T = TypeVar("T")


def evaluate(stages: Stages, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Choose each arm's checkpoint on ``data.select_split``, score it on ``data.val_split``; arm -> M.

    All arms at once: a split is read once, and the actors that hold the models start once.
    """
    done = {arm: stages.run.result(f"evaluate_{arm}") for arm in arms}
    todo = [arm for arm, result in done.items() if result is None]
    if todo:
        began = time.monotonic()
        chosen, selection = _choose(stages, {arm: stages.checkpoints(f"student_{arm}") for arm in todo})
        say(f"scores begin: students {', '.join(todo)}")
        split, shown = stages.config.data.val_split, pictured_records(stages)
        found = _predict_split(stages, chosen, split)
        for arm, file, boxes, metrics in zip(todo, chosen, found, _devkit(stages, chosen, found, split), strict=True):
            pictures = [(record, confident(boxes[record.sample_token])) for record in shown]
            unseen = None if stages.config.optim.patience or stages.observe else selection[arm]
            evaluated(stages, f"student_{arm}", file, metrics, "val", split, pictures, unseen)
            curve = {name: report["SPNDS"] for name, report in selection[arm].items()}
            result = {**metrics, "checkpoint": file.name, "selection": curve}
            done[arm] = stages.run.finish(f"evaluate_{arm}", result)
        stages.timing["evaluate"] = time.monotonic() - began
    return {arm: result for arm, result in done.items() if result is not None}


def _choose(stages: Stages, files: dict[str, list[Path]]) -> tuple[list[Path], dict[str, dict[str, dict[str, Any]]]]:
    """Per arm the checkpoint of the best SPNDS on the select split (the last one without choice, or without objects
    there), and the reports of all there, by file name."""
    split, every = stages.config.data.select_split, [file for mine in files.values() for file in mine]
    if not split or len(every) == len(files) or not annotated(stages.data.index, split).any():
        return [mine[-1] for mine in files.values()], {arm: {} for arm in files}
    scores = dict(zip(every, _score(stages, every, split), strict=True))
    chosen = [max(mine, key=lambda file: scores[file]["SPNDS"]) for mine in files.values()]
    return chosen, {arm: {file.name: scores[file] for file in mine} for arm, mine in files.items()}


def checkpoint_score(stages: Stages, stage: Stage, tracker: Tracker) -> Callable[[Path], float] | None:
    """What a kept checkpoint is worth, where somebody asks while training goes on."""
    if not (stage.optim.patience or stages.observe) or stage.name == CROPS:
        return None

    def score_of(file: Path) -> float:
        split = stages.config.data.select_split
        if stage.kind != "student":
            scores = teacher_scores(stages, file, split, beside=True)
        else:
            scores = _score(stages, [file], split, beside=True)[0]
        tracker.log_metrics(score_metrics("select", scores), step_of(file))
        if stages.observe is not None:
            stages.observe(stage.name, step_of(file), scores)
        return float(scores["SPNDS" if stage.kind == "student" else "bev_iou"] or 0.0)

    return score_of


def clicked_records(stages: Stages, split: str) -> Records:
    """Samples of a split that is not trained on, with all boxes, and clicks drawn as the train split's are."""
    folder = stages.run.path / "data" / f"manifest_{split}"
    if not (folder / "manifest.json").exists():  # written last
        label = stages.config.label.everywhere
        build_manifest(stages.data.index, split, label, folder)
    records = stages.kept(training_records(stages.data.index, LabelManifest.open(folder)))
    return records.select(records.clicked)


def teacher_scores(stages: Stages, file: Path, split: str, beside: bool = False) -> dict[str, Any]:
    """Quality of a teacher's boxes at the clicks of a split that is not trained on; ``beside``: see ``predict``."""
    if not annotated(stages.data.index, split).any():  # nobody drew boxes there
        return pseudo_label_quality(Boxes3D.empty(), Boxes3D.empty(), np.zeros(0), classes=stages.config.classes)
    records = clicked_records(stages, split)
    known = KnownClicks(records, classes=stages.config.classes)
    boxes = predict("teacher", stages.config, stages.prior, [file], records, beside=beside)[0]
    scores = known.quality(boxes)
    if split == stages.config.data.val_split != stages.config.data.select_split:  # not of each checkpoint
        shown = {record.sample_token for record in pictured_records(stages)}
        pictures = [(record, boxes[record.sample_token]) for record in records if record.sample_token in shown]
        evaluated(stages, "teacher", file, scores, "val", f"clicks of {split}", pictures)
    return scores


def _score(stages: Stages, files: list[Path], split: str, beside: bool = False) -> list[dict[str, Any]]:
    return _devkit(stages, files, _predict_split(stages, files, split, beside), split)


def _predict_split(stages: Stages, files: list[Path], split: str, beside: bool = False) -> list[OfTokens[Boxes3D]]:
    """Per student checkpoint, the boxes of every sample of a split."""
    records = eval_records(stages.data.index, split)
    unread = [skipped for skipped in stages.data.skipped if not skipped.image]  # students look at LiDAR alone
    results = predict("student", stages.config, stages.prior, files, without(records, unread), beside=beside)
    # The devkit scores whole splits: what cannot be read counts as seen, with nothing found in it.
    tokens, nothing = TextPlaces(records.token_column), Boxes3D.empty()
    return [OfTokens(tokens, partial(_boxes_or, boxes, nothing)) for boxes in results]


def _boxes_or(boxes: Mapping[str, Boxes3D], nothing: Boxes3D, token: str) -> Boxes3D:
    return boxes.get(token, nothing)


class OfTokens(Mapping[str, T]):
    """What a function says of each of some tokens, made when it is asked for."""

    def __init__(self, tokens: TextPlaces, of: Callable[[str], T]) -> None:
        self.tokens, self.of = tokens, of

    def __getitem__(self, token: str) -> T:
        if token not in self.tokens:
            raise KeyError(token)
        return self.of(token)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self.tokens  # Mapping's would make the value


@PHASES.of("score")
def _devkit(
    stages: Stages, files: list[Path], results: Sequence[OfTokens[Boxes3D]], split: str
) -> list[dict[str, Any]]:
    from pdetr3d.evaluation.kitti_score import has_kitti_labels, kitti_score
    from pdetr3d.evaluation.nuscenes_eval import load_tables, score

    records, data = eval_records(stages.data.index, split), stages.data.index
    nusc = load_tables(data.dataroot, data.version, data.facts.names, data.counted_points(), classes=data.classes)
    matrix = data.records.rows.matrix

    def poses_of(token: str) -> Poses:
        row = data.row(token)
        return matrix("lidar2ego", row), matrix("ego2global", row)

    poses = OfTokens(results[0].tokens, poses_of)  # of all samples of the split, too
    regions = {}
    if data.records.has_regions:
        regions = {r.sample_token: r.regions for r in records if r.regions is not None}
    reports = [
        score(
            data.dataroot,
            data.version,
            split,
            boxes,
            poses,
            stages.run.path / file.parent.name.replace("student_", "evaluate_") / f"{split}_{file.stem}",
            nusc,
            bins=split == stages.config.data.val_split,
            regions=regions,
            classes=data.classes,
        )
        for file, boxes in zip(files, results, strict=True)
    ]
    tables = data.dataroot / data.version
    if has_kitti_labels(tables):
        cameras = {r.sample_token: r.cameras[0] for r in records}
        for report, boxes in zip(reports, results, strict=True):
            report["kitti"] = kitti_score(tables, boxes, cameras, data.classes)
    return reports
