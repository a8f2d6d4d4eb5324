"""Scores checkpoints: students by the devkit's scorer on whole splits, teachers by their boxes at clicks."""

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
from pdetr3d.pipeline.quality import KnownClicks
from pdetr3d.pipeline.run import Run, Score
from pdetr3d.pipeline.training import Training
from pdetr3d.schema import Boxes3D

if TYPE_CHECKING:
    from pdetr3d.evaluation.results_format import Poses

T = TypeVar("T")


def evaluate(run: Run, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Choose each arm's checkpoint on ``data.select_split``, and score it on ``data.val_split``.

    All arms are predicted at once, so that a split is read once and actors start once.

    Returns:
        Arm -> scores of the devkit's scorer, ``checkpoint``: name of the chosen file, ``selection``: SPNDS of each
        checkpoint on the select split.

    Raises:
        DataError: when an arm is not trained.
    """
    done = {arm: run.result(f"evaluate_{arm}") for arm in arms}
    todo = [arm for arm, result in done.items() if result is None]
    if todo:
        began = time.monotonic()
        chosen, selection = _choose(run, {arm: run.checkpoints(f"student_{arm}") for arm in todo})
        run.observer.say(f"scores begin: students {', '.join(todo)}")
        split, shown = run.config.data.val_split, run.observer.pictured(run)
        found = _predict_split(run, chosen, split)
        for arm, file, boxes, metrics in zip(todo, chosen, found, _devkit(run, chosen, found, split), strict=True):
            pictures = [(record, boxes[record.sample_token]) for record in shown]
            unseen = None if run.config.optim.patience or run.observer.watches(f"student_{arm}") else selection[arm]
            run.observer.evaluated(run, f"student_{arm}", file, metrics, "val", split, pictures, unseen)
            curve = {name: report["SPNDS"] for name, report in selection[arm].items()}
            result = {**metrics, "checkpoint": file.name, "selection": curve}
            done[arm] = run.dir.finish(f"evaluate_{arm}", result)
        run.timing["evaluate"] = time.monotonic() - began
    return {arm: result for arm, result in done.items() if result is not None}


def _choose(run: Run, files: dict[str, list[Path]]) -> tuple[list[Path], dict[str, dict[str, dict[str, Any]]]]:
    """Choose each arm's checkpoint: that of the best SPNDS on the select split.

    The last checkpoint is chosen if there is only one, or if there is no select split with objects.

    Returns:
        The chosen checkpoints; and arm -> file name -> scores on the select split, empty where none was scored.
    """
    split, every = run.config.data.select_split, [file for mine in files.values() for file in mine]
    if not split or len(every) == len(files) or not annotated(run.data.index, split).any():
        return [mine[-1] for mine in files.values()], {arm: {} for arm in files}
    scores = dict(zip(every, _score(run, every, split), strict=True))
    chosen = [max(mine, key=lambda file: scores[file]["SPNDS"]) for mine in files.values()]
    return chosen, {arm: {file.name: scores[file] for file in mine} for arm, mine in files.items()}


def checkpoint_score(run: Run) -> Score:
    """A function that scores a kept checkpoint on the select split while training goes on."""

    def score_of(training: Training, file: Path) -> float:
        split, student = run.config.data.select_split, training.kind == "student"
        if student:
            scores = _score(run, [file], split, beside=True)[0]
        else:
            scores = teacher_scores(run, file, split, beside=True)
        run.observer.scored(run, training.name, file, scores)
        return float(scores["SPNDS" if student else "bev_iou"] or 0.0)

    return score_of


def clicked_records(run: Run, split: str) -> Records:
    """The samples with clicks of a split that is not trained on. Their clicks are drawn like those of the train split.

    They also have all boxes.
    """
    folder = run.path / "data" / f"manifest_{split}"
    if not (folder / "manifest.json").exists():  # written last
        label = run.config.label.everywhere
        build_manifest(run.data.index, split, label, folder)
    records = run.kept(training_records(run.data.index, LabelManifest.open(folder)))
    return records.select(records.clicked)


def teacher_scores(run: Run, file: Path, split: str, beside: bool = False) -> dict[str, Any]:
    """Measure a teacher's boxes at the clicks of a split that is not trained on; see ``pseudo_label_quality``.

    Args:
        file: the checkpoint. split: name. beside: see ``Runner.predict``.
    """
    if not annotated(run.data.index, split).any():  # nobody drew boxes there
        return pseudo_label_quality(Boxes3D.empty(), Boxes3D.empty(), np.zeros(0), classes=run.config.classes)
    records = clicked_records(run, split)
    known = KnownClicks(records, classes=run.config.classes)
    boxes = run.runner.predict("teacher", run.config, run.prior, [file], records, beside=beside)[0]
    scores = known.quality(boxes)
    if split == run.config.data.val_split != run.config.data.select_split:  # not of each checkpoint
        shown = {record.sample_token for record in run.observer.pictured(run)}
        pictures = [(record, boxes[record.sample_token]) for record in records if record.sample_token in shown]
        run.observer.evaluated(run, "teacher", file, scores, "val", f"clicks of {split}", pictures)
    return scores


def _score(run: Run, files: list[Path], split: str, beside: bool = False) -> list[dict[str, Any]]:
    return _devkit(run, files, _predict_split(run, files, split, beside), split)


def _predict_split(run: Run, files: list[Path], split: str, beside: bool = False) -> list[OfTokens[Boxes3D]]:
    """Predict a split: per student checkpoint, the boxes of every sample."""
    records = eval_records(run.data.index, split)
    unread = [skipped for skipped in run.data.skipped if not skipped.image]  # students look at LiDAR alone
    results = run.runner.predict("student", run.config, run.prior, files, without(records, unread), beside=beside)
    # The devkit scores whole splits. A sample that cannot be read counts as one without detections.
    tokens, nothing = TextPlaces(records.token_column), Boxes3D.empty()
    return [OfTokens(tokens, partial(_boxes_or, boxes, nothing)) for boxes in results]


def _boxes_or(boxes: Mapping[str, Boxes3D], nothing: Boxes3D, token: str) -> Boxes3D:
    return boxes.get(token, nothing)


class OfTokens(Mapping[str, T]):
    """Tokens and a function's values of them. A value is computed at each access."""

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


def _devkit(run: Run, files: list[Path], results: Sequence[OfTokens[Boxes3D]], split: str) -> list[dict[str, Any]]:
    with run.observer.phase("score"):
        return _reports(run, files, results, split)


def _reports(run: Run, files: list[Path], results: Sequence[OfTokens[Boxes3D]], split: str) -> list[dict[str, Any]]:
    from pdetr3d.evaluation.kitti_score import has_kitti_labels, kitti_score
    from pdetr3d.evaluation.nuscenes_eval import load_tables, score

    records, data = eval_records(run.data.index, split), run.data.index
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
            run.path / file.parent.name.replace("student_", "evaluate_") / f"{split}_{file.stem}",
            nusc,
            bins=split == run.config.data.val_split,
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
