"""Scores groups of classes, and splits heading errors into the error of the axis and reversed directions.

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

PARTS = ("people_moving", "people_standing")  # parts of the group "people", by the attribute of the ground truth


def by_group(metrics: DetectionMetrics, matching: Matching) -> dict[str, dict[str, Any]]:
    """Figures of each group of classes, and of moving and standing people.

    Args:
        metrics: the result of ``matching.metrics()``.
        matching: with all samples of a split, filtered by class range.

    Returns:
        JSON-safe, group -> figures:
        ``mAP``, ``ATE``, ``ASE``, ``AOE``: means of the devkit's figures over the group's classes with ground truth.
        PARTS lack them, because a false positive belongs to neither part.
        ``n_gt``: objects. ``matched``: objects with a detection (the devkit's matching at 2 m, all scores).
        Means over the matched objects: ``yaw_error_rad``; ``axis_error_rad``, the heading error modulo half a turn;
        ``reversed``, the share whose heading is wrong by more than 90 degrees.
        A figure is None where it is undefined: barriers have an axis but no direction, cones have neither.
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
    """The heading figures of some classes together.

    Args:
        pairs: class -> ``Matching.matched``, with ``yaw`` and ``axis`` errors (N,) [rad].

    Returns:
        ``matched``, ``yaw_error_rad``, ``axis_error_rad``, ``reversed``: see ``by_group``.
    """
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
    """The mean over all arrays' values; None without any."""
    count = sum(len(part) for part in parts)
    return float(sum(part.sum() for part in parts) / count) if count else None
