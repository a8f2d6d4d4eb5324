"""Computes the official nuScenes detection score, SPNDS, and the scores by distance and by group of classes.

The devkit's code loads and filters the boxes and averages the metrics; ``matching`` matches them piece by piece.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt_of_sample_tokens
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig, DetectionMetrics
from nuscenes.utils.splits import get_scenes_of_split

from pdetr3d.class_list import ClassList
from pdetr3d.data.storage.files import write_json
from pdetr3d.data.storage.row_table import give_back
from pdetr3d.evaluation.class_scoring import ClassBox, ground_truth, scoring_config
from pdetr3d.evaluation.distance_bins import (
    ERROR_NAMES,
    add_to_bins,
    bin_matchings,
    by_distance,
    count_objects,
    reaching,
    within,
)
from pdetr3d.evaluation.groups import by_group
from pdetr3d.evaluation.held import where_labels_hold
from pdetr3d.evaluation.matching import Matching
from pdetr3d.evaluation.means import mean_of
from pdetr3d.evaluation.results_format import (
    Poses,
    nuscenes_boxes,
    results_file,
)
from pdetr3d.geometry.regions import Regions
from pdetr3d.schema import Boxes3D, DataError
from pdetr3d.tables.counts import not_counted
from pdetr3d.tables.loaded import Tables
from pdetr3d.tables.names import NUSCENES, Names
from pdetr3d.words import some

MINI_SPLITS = ("mini_train", "mini_val")
PIECE = 64  # number of samples whose boxes are in memory at a time
_STDERR = threading.Lock()  # jobs score in several threads, and stderr is redirected for the whole process


def load_tables(
    dataroot: Path | str,
    version: str,
    names: Names = NUSCENES,
    points: Mapping[str, int] | None = None,
    *,
    classes: ClassList,
) -> NuScenes:
    """The devkit's tables, read once per process and dataset, and again after the annotations on disk changed.

    Args:
        dataroot, version: the tables are in ``dataroot/version``.
        names: maps the dataset's own names of categories and cameras.
        points: annotation token -> number of LiDAR points, for tables that do not hold it.
        classes: the classes to score.

    Raises:
        DataError: when there are no tables at ``dataroot/version``, or they lack what scoring needs (``Tables``).
    """
    table = Path(dataroot) / version / "sample_annotation.json"
    if not table.is_file():
        raise DataError(f"{table} does not exist: data.dataroot must hold the tables in a folder named data.version")
    nusc = _load_tables(str(Path(dataroot).resolve()), version, names, classes, table.stat().st_mtime_ns)
    for token, count in (points or {}).items():
        nusc.get("sample_annotation", token)["num_lidar_pts"] = count
    return nusc


@functools.lru_cache(maxsize=2)
def _load_tables(dataroot: str, version: str, names: Names, classes: ClassList, _mtime_ns: int) -> NuScenes:
    nusc = Tables(Path(dataroot), version, classes, names)
    for row in nusc.sample_annotation:  # the devkit adds the two fields and leaves out objects whose sum is 0
        for field in ("num_lidar_pts", "num_radar_pts"):
            row[field] = 0 if not_counted(row[field]) else row[field]
    return nusc


def refuse_unscorable(version: str, split: str) -> None:
    """Refuse a split that the devkit scores only in versions of another name.

    Raises:
        DataError: names the split, the version and the allowed ending.
    """
    versions = {"train": "trainval", "val": "trainval", "train_detect": "trainval", "train_track": "trainval"}
    ending = {**versions, "mini_train": "mini", "mini_val": "mini", "test": "test"}.get(split, "")
    if version.endswith(ending) or (split in MINI_SPLITS and version.endswith("trainval")):
        return
    raise DataError(
        f"split {split!r} with data.version {version!r}: the devkit scores this split only where the version's name "
        f"ends with {ending!r}; name the scenes in {version}/splits.json (as my_{split}, say), and that split in data.*"
    )


def split_samples(nusc: NuScenes, split: str) -> list[str]:
    """Tokens of the split's samples in the dataset, in table order.

    The split is one of the devkit's or one of ``VERSION/splits.json``. Scenes that the dataset lacks are left out, as
    the devkit does.

    Raises:
        DataError: when the split is unknown, or the dataset has no sample of it.
    """
    try:
        names = set(get_scenes_of_split(split, nusc))
    except ValueError as error:
        raise DataError(f"split {split!r} is not one of nuScenes' (train, val, mini_train, ...): {error}") from error
    tokens = [s["token"] for s in nusc.sample if nusc.get("scene", s["scene_token"])["name"] in names]
    if not tokens:
        raise DataError(f"split {split!r} has no sample in {nusc.dataroot} {nusc.version}: choose another split")
    return tokens


def score(
    dataroot: Path,
    version: str,
    split: str,
    predictions: Mapping[str, Boxes3D],
    sensor_poses: Mapping[str, Poses],
    out_dir: Path,
    nusc: NuScenes | None = None,
    bins: bool = True,
    regions: Mapping[str, Regions] | None = None,
    *,
    classes: ClassList,
) -> dict[str, Any]:
    """Score predictions on all samples of a split as the devkit's ``DetectionEval`` does (``detection_cvpr_2019``).

    Writes ``results_nusc.json`` (nuScenes results format) and ``metrics_summary.json`` (the devkit's summary) to
    ``out_dir``, each under a temporary name first.

    Args:
        dataroot, version: a nuScenes-format dataset with annotations.
        split: one of the devkit's or of ``splits.json``; the dataset may hold a part of its scenes.
        predictions: sample token -> boxes in that sample's LIDAR_TOP frame; the best 500 per sample count.
        sensor_poses: sample token -> (lidar2ego, ego2global), (4, 4) each.
        out_dir: created when missing.
        nusc: the loaded tables; default: loaded once per process.
        bins: also score by distance and by group of classes. This doubles the time; choosing a checkpoint does not
            need it.
        regions: sample token -> where its labels hold, LIDAR_TOP frame, for the samples that have regions. Objects and
            predictions whose center lies elsewhere are left out before matching.
        classes: names of ``Boxes3D.label``. For classes other than the devkit's ten, errors that are undefined for
            every class are None and no part of NDS (``class_scoring``).

    Returns:
        JSON-safe dict. ``mAP``, ``NDS`` and the mean errors ``mATE`` [m], ``mASE``, ``mAOE`` [rad], ``mAVE`` [m/s],
        ``mAAE`` as the devkit counts them (a class without ground truth or without matches has AP 0 and errors 1);
        ``SPNDS`` (method.md 6.1);
        ``mAP_present``: mean AP over classes with ground truth after the devkit's filters (None if there are none);
        ``n_gt``: objects per class after those filters;
        ``per_class``: class -> AP, AP@0.5 .. AP@4.0, ATE, ASE, AOE, AVE, AAE (None where undefined), n_gt;
        ``by_distance``: see ``distance_bins.by_distance``; ``by_group``: see ``groups.by_group``;
        ``outside_regions`` (with ``regions``): how many ``objects`` and ``predictions`` were left out.

    Raises:
        DataError: when a sample of the split has no prediction entry or no pose, when a prediction belongs to no sample
            of the split, or when the devkit refuses the split for this version.
    """
    nusc = nusc or load_tables(dataroot, version, classes=classes)
    tokens = split_samples(nusc, split)
    refuse_unscorable(nusc.version, split)
    _check_tokens(split, tokens, predictions, "predictions")
    _check_tokens(split, tokens, sensor_poses, "sensor poses")
    out_dir.mkdir(parents=True, exist_ok=True)
    with results_file(out_dir / "results_nusc.json") as write:

        def entries(token: str) -> list[dict[str, Any]]:
            made = nuscenes_boxes(token, predictions[token], sensor_poses[token], classes)
            write(token, made)
            return made

        metrics, report = _score(nusc, tokens, entries, sensor_poses, bins, regions or {}, classes)
    write_json(out_dir / "metrics_summary.json", _json_safe(metrics.serialize()))
    return report


def score_entries(
    nusc: NuScenes,
    split: str,
    results: Mapping[str, list[dict[str, Any]]],
    sensor_poses: Mapping[str, Poses],
    regions: Mapping[str, Regions] | None = None,
    *,
    classes: ClassList,
) -> dict[str, Any]:
    """Score the entries of a results file (``foreign_results.read_entries``) unchanged; writes nothing.

    Args:
        results: sample token -> its entries (global frame, with velocities and attributes), for every sample of the
            split. The other arguments are those of ``score``.

    Returns:
        As ``score``.

    Raises:
        DataError: as ``score``.
    """
    tokens = split_samples(nusc, split)
    refuse_unscorable(nusc.version, split)
    _check_tokens(split, tokens, results, "results")
    return _score(nusc, tokens, results.__getitem__, sensor_poses, True, regions or {}, classes)[1]


def _score(
    nusc: NuScenes,
    tokens: list[str],
    entries: Callable[[str], list[dict[str, Any]]],
    sensor_poses: Mapping[str, Poses],
    bins: bool,
    regions: Mapping[str, Regions],
    classes: ClassList,
) -> tuple[DetectionMetrics, dict[str, Any]]:
    """The devkit's metrics, and ``score``'s report. ``entries``: token -> ``sample_result`` rows, called once each."""
    began, config = time.monotonic(), scoring_config(classes)
    lost = {"objects": 0, "predictions": 0}  # left out, since they lie outside the regions
    official, by_bin = Matching(config, classes), bin_matchings(config, classes) if bins else {}
    for start in range(0, len(tokens), PIECE):
        results = {token: entries(token) for token in tokens[start : start + PIECE]}
        gt, pred = _load_boxes(nusc, reaching(config), results, classes)
        if regions:
            loaded = len(gt.all), len(pred.all)
            gt, pred = (where_labels_hold(boxes, regions, sensor_poses) for boxes in (gt, pred))
            lost["objects"] += loaded[0] - len(gt.all)
            lost["predictions"] += loaded[1] - len(pred.all)
        official.add(within(gt, 0.0, config.class_range), within(pred, 0.0, config.class_range))
        add_to_bins(by_bin, gt, pred)
        give_back()
    metrics = official.metrics()
    metrics.add_runtime(time.monotonic() - began)
    report = _report(metrics, count_objects(official)) | ({"outside_regions": lost} if regions else {})
    if bins:
        report["by_distance"] = by_distance(by_bin)
        report["by_group"] = by_group(metrics, official)
    return metrics, report


def spnds(mean_ap: float, tp_errors: dict[str, float]) -> float:
    """SPNDS, NDS without velocity and attribute: (5 mAP + sum over ATE, ASE, AOE of (1 - min(1, error))) / 8.

    Source: method.md 6.1. An error that is NaN (AOE, if no class has a heading) is left out, and the divisor is 7.

    Args:
        mean_ap: mAP as the devkit counts it.
        tp_errors: the devkit's mean errors, keys ``trans_err``, ``scale_err``, ``orient_err``.
    """
    known = [error for e in ("trans_err", "scale_err", "orient_err") if not math.isnan(error := tp_errors[e])]
    return (5 * mean_ap + sum(1 - min(1.0, error) for error in known)) / (5 + len(known))


def _check_tokens(split: str, tokens: list[str], given: Mapping[str, Any], what: str) -> None:
    missing = [token for token in tokens if token not in given]
    if missing:
        raise DataError(
            f"{what} lack {len(missing)} of the {len(tokens)} samples of split {split!r}: {some(missing)}; "
            f"every sample needs an entry, without objects an empty one"
        )
    if len(given) > len(tokens) and what != "sensor poses":  # every sample of the split has an entry: some are foreign
        known = set(tokens)
        foreign = sorted(token for token in given if token not in known)
        listed = ", ".join(foreign[:5])
        raise DataError(f"{what} for {len(foreign)} samples outside split {split!r}: {listed}; leave them out")


def _load_boxes(
    nusc: NuScenes, config: DetectionConfig, results: dict[str, list[dict[str, Any]]], classes: ClassList
) -> tuple[EvalBoxes, EvalBoxes]:
    """Ground truth and predictions of some samples as ``DetectionEval`` loads and filters them.

    The devkit's filters for range, points and bike racks are independent of each other. The boxes can therefore be
    loaded once, which is slow, and cut to shorter ranges afterwards (``within``).
    """
    if classes.own:
        gt = ground_truth(nusc, list(results), classes)
    else:
        # The devkit draws a tqdm bar even when it is not verbose.
        with _STDERR, contextlib.redirect_stderr(io.StringIO()):
            gt = load_gt_of_sample_tokens(nusc, list(results), DetectionBox)
    pred = EvalBoxes.deserialize(results, ClassBox if classes.own else DetectionBox)
    for boxes in (gt, pred):
        add_center_dist(nusc, boxes)
        if boxes.all:  # the devkit raises when there is no box at all
            filter_eval_boxes(nusc, boxes, config.class_range)
    return gt, pred


def _report(metrics: DetectionMetrics, n_gt: dict[str, int]) -> dict[str, Any]:
    aps, errors = metrics.mean_dist_aps, metrics.tp_errors
    per_class = {}
    for name in n_gt:
        entry = {"AP": aps[name]}
        entry |= {f"AP@{threshold}": metrics.get_label_ap(name, threshold) for threshold in metrics.cfg.dist_ths}
        entry |= {ERROR_NAMES[error]: metrics.get_label_tp(name, error) for error in TP_METRICS}
        per_class[name] = entry | {"n_gt": n_gt[name]}
    report = {
        "mAP": metrics.mean_ap,
        "mAP_present": mean_of([aps[name] for name in n_gt if n_gt[name]]),
        "NDS": metrics.nd_score,
        "SPNDS": spnds(metrics.mean_ap, errors),
        **{f"m{ERROR_NAMES[error]}": errors[error] for error in TP_METRICS},
        "n_gt": n_gt,
        "per_class": per_class,
    }
    return _json_safe(report)


def _json_safe(value: Any) -> Any:
    """The value in plain Python types, with None for NaN."""
    if isinstance(value, dict):
        return {str(k): _json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value)
    return value
