"""The score by distance from the ego vehicle (method 6.1), with the devkit's own matching and averaging."""

from __future__ import annotations

from typing import Any

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetrics

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.matching import Matching
from pdetr3d.evaluation.means import mean_of

DISTANCE_BINS_M = ((0, 10), (10, 20), (20, 30), (30, 40), (40, 52))
MIN_OBJECTS_IN_BIN = 10
ERROR_NAMES = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}


def reaching(config: DetectionConfig) -> DetectionConfig:
    """The same configuration with class ranges that reach the last bin's end (and no less than before)."""
    ranges = {name: max(range_m, DISTANCE_BINS_M[-1][1]) for name, range_m in config.class_range.items()}
    return type(config).deserialize(config.serialize() | {"class_range": ranges})


def within(boxes: EvalBoxes, low_m: float, high_m: dict[str, float]) -> EvalBoxes:
    """The boxes with ``low_m <= ego distance < high_m[class]``; every sample stays a key."""
    kept = EvalBoxes()
    for token in boxes.sample_tokens:
        offset = np.array([box.ego_translation[:2] for box in boxes[token]], dtype=np.float64).reshape(-1, 2)
        distance = np.hypot(offset[:, 0], offset[:, 1]).tolist()
        pairs = zip(boxes[token], distance, strict=True)
        kept.add_boxes(token, [box for box, d in pairs if low_m <= d < high_m[box.detection_name]])
    return kept


def bin_matchings(config: DetectionConfig, classes: ClassList) -> dict[tuple[int, int], Matching]:
    """An empty ``Matching`` for each of DISTANCE_BINS_M."""
    return {bounds: Matching(config, classes) for bounds in DISTANCE_BINS_M}


def add_to_bins(bins: dict[tuple[int, int], Matching], gt: EvalBoxes, pred: EvalBoxes) -> None:
    """Give some samples to all bins. gt, pred: filtered by the devkit with the ranges of ``reaching``."""
    for (low, high), matching in bins.items():
        high_m = dict.fromkeys(matching.classes.names, float(high))
        matching.add(within(gt, low, high_m), within(pred, low, high_m))


def by_distance(bins: dict[tuple[int, int], Matching]) -> dict[str, Any]:
    """The score by ego distance (method 6.1), bin name -> mAP, ATE, ASE, AOE, classes, n_gt.

    Ground truth and predictions with lo <= distance < hi count, the bin replacing the class ranges; zero-point objects
    and bike racks are filtered as always. mAP, ATE, ASE, AOE are means over ``classes``: those with at least 10 objects
    in the bin (None if there are none); ``n_gt`` counts all classes.

    Args:
        bins: of ``bin_matchings``, which have all samples of the split.
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
    """Objects per class, all classes."""
    return {name: matching.n_gt[name] for name in matching.classes.names}
