"""Scores detections by distance from the ego vehicle (method.md 6.1), with the devkit's matching and averaging."""

from __future__ import annotations

from typing import Any

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetrics

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.matching import Matching
from pdetr3d.evaluation.means import mean_of
from pdetr3d.evaluation.pseudo_label_quality import BINS_M

MIN_OBJECTS_IN_BIN = 10  # a class with fewer objects is left out of the bin's means
ERROR_NAMES = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}


def reaching(config: DetectionConfig) -> DetectionConfig:
    """The same configuration with class ranges extended to the last bin's end, unless they are longer already."""
    ranges = {name: max(range_m, BINS_M[-1][1]) for name, range_m in config.class_range.items()}
    return type(config).deserialize(config.serialize() | {"class_range": ranges})


def within(boxes: EvalBoxes, low_m: float, high_m: dict[str, float]) -> EvalBoxes:
    """The boxes with ``low_m <= distance from the ego vehicle < high_m[class]``; every sample token is kept."""
    kept = EvalBoxes()
    for token in boxes.sample_tokens:
        offset = np.array([box.ego_translation[:2] for box in boxes[token]], dtype=np.float64).reshape(-1, 2)
        distance = np.hypot(offset[:, 0], offset[:, 1]).tolist()
        pairs = zip(boxes[token], distance, strict=True)
        kept.add_boxes(token, [box for box, d in pairs if low_m <= d < high_m[box.detection_name]])
    return kept


def bin_matchings(config: DetectionConfig, classes: ClassList) -> dict[tuple[int, int], Matching]:
    """An empty ``Matching`` for each of BINS_M."""
    return {bounds: Matching(config, classes) for bounds in BINS_M}


def add_to_bins(bins: dict[tuple[int, int], Matching], gt: EvalBoxes, pred: EvalBoxes) -> None:
    """Add some samples' objects and predictions to the bins; both are filtered by the ranges of ``reaching``."""
    for (low, high), matching in bins.items():
        high_m = dict.fromkeys(matching.classes.names, float(high))
        matching.add(within(gt, low, high_m), within(pred, low, high_m))


def by_distance(bins: dict[tuple[int, int], Matching]) -> dict[str, Any]:
    """The score by ego distance (method.md 6.1).

    In a bin, objects and predictions with lo <= distance < hi count: the bin replaces the class ranges. Objects without
    points and boxes in bike racks are filtered as always.

    Args:
        bins: from ``bin_matchings``, after all samples of the split were added.

    Returns:
        Bin name -> ``mAP``, ``ATE`` [m], ``ASE``, ``AOE`` [rad]: means over ``classes``, the names of the classes with
        at least MIN_OBJECTS_IN_BIN objects in the bin (None if there are none); ``n_gt``: objects of every class.
    """
    return {
        bin_name(low, high): _bin_report(matching.metrics(), count_objects(matching))
        for (low, high), matching in bins.items()
    }


def bin_name(low_m: float, high_m: float) -> str:
    """Key of a bin in reports, e.g. ``"10-20"``."""
    return f"{low_m}-{high_m}"


def _bin_report(metrics: DetectionMetrics, n_gt: dict[str, int]) -> dict[str, Any]:
    classes = [name for name in n_gt if n_gt[name] >= MIN_OBJECTS_IN_BIN]
    aps = metrics.mean_dist_aps
    report: dict[str, Any] = {"mAP": mean_of([aps[name] for name in classes])}
    for error in ("trans_err", "scale_err", "orient_err"):
        report[ERROR_NAMES[error]] = mean_of([metrics.get_label_tp(name, error) for name in classes])
    return report | {"classes": classes, "n_gt": n_gt}


def count_objects(matching: Matching) -> dict[str, int]:
    """The number of objects of every class."""
    return {name: matching.n_gt[name] for name in matching.classes.names}
