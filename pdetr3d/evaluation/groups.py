"""The score by kind of object, and headings taken apart: axis, direction. Vehicles, people and barriers differ in both.

Legend: N pairs of an object and its detection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.detection.data_classes import DetectionMetrics

from pdetr3d.class_list import ClassList
from pdetr3d.evaluation.distance_bins import ERROR_NAMES
from pdetr3d.evaluation.matching import Matching
from pdetr3d.evaluation.means import mean_of

PARTS = ("people_moving", "people_standing")  # of the people, by the attribute of the ground truth


def by_group(metrics: DetectionMetrics, matching: Matching) -> dict[str, dict[str, Any]]:
    """Figures of each group of classes, and of people who move and who do not.

    Args:
        metrics: of ``matching``, which has all samples of a split, filtered by class range.

    Returns:
        JSON-safe, group -> ``mAP``, ``ATE``, ``ASE``, ``AOE``: means of the devkit's figures over the group's classes
        with ground truth (absent of PARTS: a false positive belongs to neither); ``n_gt``; ``matched``: how many of
        these have a detection (the devkit's matching at 2 m, all scores). Over the matched: ``yaw_error_rad``;
        ``axis_error_rad``, the same up to half a turn; ``reversed``, the share whose heading is off by over 90 degrees.
        None where undefined: barriers look the same from both sides, cones from all.
    """
    report = {}
    for group, classes in matching.classes.groups.items():
        pairs = {name: matching.matched(name) for name in classes}
        known = [name for name in classes if matching.n_gt[name]]
        aps = metrics.mean_dist_aps
        means = {"mAP": mean_of([aps[name] for name in known])}
        for error in ("trans_err", "scale_err", "orient_err"):
            means[ERROR_NAMES[error]] = mean_of([metrics.get_label_tp(name, error) for name in known])
        objects = sum(matching.n_gt[name] for name in classes)
        report[group] = {**means, "n_gt": objects, **headings(pairs, matching.classes)}
        if group == "people":
            for part, moving in zip(PARTS, (True, False), strict=True):
                mine = {n: {key: v[(p["walks"] > 0) == moving] for key, v in p.items()} for n, p in pairs.items()}
                count = matching.walking if moving else objects - matching.walking
                report[part] = {"n_gt": count, **headings(mine, matching.classes)}
    return report


def headings(pairs: Mapping[str, Mapping[str, NDArray[np.float64]]], classes: ClassList) -> dict[str, Any]:
    """``matched``, ``yaw_error_rad``, ``axis_error_rad``, ``reversed`` of class -> ``Matching.matched``."""
    heading = {each.name: each.heading for each in classes.classes}
    axis = [pair["axis"] for name, pair in pairs.items() if heading[name] != "none"]
    yaw = [pair["yaw"] for name, pair in pairs.items() if heading[name] == "direction"]
    undirected = [pair["axis"] for name, pair in pairs.items() if heading[name] == "axis"]
    return {
        "matched": sum(len(pair["yaw"]) for pair in pairs.values()),
        "yaw_error_rad": _mean(yaw + undirected),
        "axis_error_rad": _mean(axis),
        "reversed": _mean([error > np.pi / 2 for error in yaw]),
    }


def _mean(parts: Sequence[NDArray[Any]]) -> float | None:
    count = sum(len(part) for part in parts)
    return float(sum(part.sum() for part in parts) / count) if count else None
